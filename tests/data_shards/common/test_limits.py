"""The limits are what SECURITY.md says, and far above what real files have."""

from pathlib import Path

from neuroimagen.data_shards.common import limits

ROOT = Path(__file__).resolve().parents[3]


def test_every_limit_stands_in_the_security_policy() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    missing = [name for name in vars(limits) if name.startswith("MAX_") and f"`{name}`" not in text]
    assert not missing


def test_the_recipes_that_ship_are_far_below_the_limits() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "launch" / "recipes").glob("*.yaml")]
    assert sizes
    assert 4 * max(sizes) < limits.MAX_YAML_BYTES


def test_long_names_are_cut() -> None:
    assert limits.shortened("short") == "short"
    assert limits.shortened("x" * 10, 4) == "xxx…"
