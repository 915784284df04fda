"""A margin search and a guidance search of which only the records exist: no trial is run for them."""

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import Search, search_of
from neuroimagen.tune.confirm import confirmation_trials
from neuroimagen.tune.records import SearchFolder, TrialRecord, open_search

SPACE = {"contrastive.margin": {"low": 0.05, "high": 2.0, "log": True}, "contrastive.distance": ["cosine", "euclidean"]}


def margin_search() -> Search:
    return search_of({"recipe": "r", "space": SPACE}, "margin", where="x")


def margin_records() -> list[TrialRecord]:
    """Nine trials, of which every third was stopped and the fifth is the best, and a failed one."""
    records = []
    for number in range(9):
        margin, distance = round(0.1 + 0.2 * number, 2), ("cosine", "euclidean")[number % 2]
        value = 0.8 - abs(margin - 0.9) / 2
        state = "stopped" if number % 3 == 2 else "finished"
        curve = ((3, value / 2), (9, value)) if state == "finished" else ((3, value / 2),)
        records.append(
            TrialRecord(
                name=f"trials/{number:04d}",
                values={"contrastive.margin": margin, "contrastive.distance": distance},
                seed=0,
                state=state,  # type: ignore[arg-type]
                figures={"knn_accuracy": curve[-1][1], "accuracy": 0.5},
                curve=curve,
                steps=curve[-1][0],
                num_starts=2 if number == 4 else 1,
                retries=1 if number == 4 else 0,
            )
        )
    bad = TrialRecord(
        name="trials/0009",
        values={"contrastive.margin": 0.3, "contrastive.distance": "cosine"},
        seed=0,
        state="failed",
        message="the loss is not finite <step 3>",
    )
    return [*records, bad]


def confirmation_records(best: list[float], default: list[float]) -> list[TrialRecord]:
    """The runs with new seeds, with these values of knn_accuracy."""
    first, second = ({"contrastive.margin": margin, "contrastive.distance": "cosine"} for margin in (0.9, 1.0))
    planned = confirmation_trials(first, second, base_seed=0, num_seeds=len(best))
    values = [value for pair in zip(best, default, strict=True) for value in pair]
    return [
        TrialRecord(
            name=record.name,
            values=record.values,
            seed=record.seed,
            state="finished",
            figures={"knn_accuracy": value},
        )
        for record, value in zip(planned, values, strict=True)
    ]


def pareto_search() -> Search:
    space = {"reconstruct.guidance": {"low": 1.0, "high": 9.0}}
    return search_of({"space": space, "pareto": ["ssim", "two_way_clip"], "run": "runs/a b"}, "guidance", where="x")


def pareto_records() -> list[TrialRecord]:
    """Four trials; all but the last are on the Pareto front."""
    return [
        TrialRecord(
            name=f"trials/{number:04d}",
            values={"reconstruct.guidance": 1.0 + number},
            seed=0,
            state="finished",
            figures={"ssim": x, "two_way_clip": y},
            curve=((96, x),),
            steps=96,
        )
        for number, (x, y) in enumerate([(0.1, 0.9), (0.18, 0.86), (0.2, 0.5), (0.15, 0.6)])
    ]


def store(folder: SearchFolder, search: Search, records: list[TrialRecord]) -> None:
    """Write the search and its records into the folder."""
    open_search(folder, search, Recipe(), resume=False)
    for record in records:
        folder.write(record)
