"""Draws docs/images/mining.svg: python docs/images/draw_mining.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

OWN, OTHER, CHOSEN, INK = "#4c72b0", "#bbbbbb", "#c44e52", "#333333"


def tiles(axis: plt.Axes) -> None:
    """Left: which part of the distance matrix one program sees, a tile at a time."""
    num, band = 10, (3, 5)
    axis.add_patch(plt.Rectangle((0, 0), num, num, fill=False, ec=INK, lw=1))
    for column in range(num):
        own = band[0] <= column < band[1]
        axis.add_patch(plt.Rectangle((column, 6), 1, 1.6, fc=OWN if own else OTHER, alpha=0.75, ec="white", lw=1.5))
    axis.annotate("", (num, 5.6), (0, 5.6), arrowprops={"arrowstyle": "->", "color": INK})
    axis.text(5, 5.15, "stream tiles of columns; keep K running minima a row", ha="center", va="top", fontsize=8.5)
    band_text = "own class: the positives' keys,\nthen masked"
    axis.text(4, 7.8, band_text, ha="center", va="bottom", fontsize=8.5, color=OWN)
    axis.text(-0.25, 6.8, "128\nanchors", ha="right", va="center", fontsize=8.5)
    axis.text(5, -0.25, "N candidates, sorted by class", ha="center", va="top", fontsize=8.5)
    axis.text(5, 2.4, "never stored", ha="center", va="center", fontsize=11, color="#999999")
    axis.set(xlim=(-2.2, num + 0.3), ylim=(-1.2, num + 0.6))
    axis.set_title("the N × N distances", fontsize=10)


def keys(axis: plt.Axes) -> None:
    """Right: key − threshold, unsigned: what is nearer than the positive wraps to the top."""
    rng = np.random.default_rng(4)
    distance = np.sort(rng.uniform(0.4, 9.4, 15))
    positive = 3.1
    beyond = distance[distance > positive]
    axis.annotate("", (10, 2), (0, 2), arrowprops={"arrowstyle": "->", "color": INK})
    axis.scatter(distance, np.full_like(distance, 2), s=34, color=OTHER, zorder=3)
    axis.scatter([positive], [2], s=60, color=OWN, zorder=4)
    axis.scatter(beyond[:1], [2], s=60, color=CHOSEN, zorder=4)
    axis.text(positive, 2.22, "positive", ha="center", fontsize=8.5, color=OWN)
    axis.text(beyond[0] + 0.15, 1.72, "nearest farther\nnegative", ha="left", va="top", fontsize=8.5, color=CHOSEN)
    axis.text(0, 2.45, "key = distance, 23-bit fixed point | column", fontsize=8.5)
    wrapped = np.where(distance > positive, distance - positive, distance - positive + 10)
    axis.annotate("", (10, 0.6), (0, 0.6), arrowprops={"arrowstyle": "->", "color": INK})
    axis.scatter(wrapped, np.full_like(distance, 0.6), s=34, color=OTHER, zorder=3)
    axis.scatter([beyond[0] - positive], [0.6], s=60, color=CHOSEN, zorder=4)
    axis.text(0, 1.0, "key − threshold, unsigned", fontsize=8.5)
    axis.text(beyond[0] - positive, 0.3, "min", ha="center", va="top", fontsize=9, color=CHOSEN)
    axis.text(8.4, 0.3, "nearer ones wrapped around", ha="center", va="top", fontsize=8.5, color="#777777")
    axis.set(xlim=(-0.3, 10.3), ylim=(-0.2, 2.9))
    axis.set_title("one subtraction is the test and the order", fontsize=10)


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "mining"
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), constrained_layout=True)
    tiles(axes[0])
    keys(axes[1])
    for axis in axes:
        axis.axis("off")
    figure.savefig(Path(__file__).with_name("mining.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
