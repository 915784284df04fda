"""Facts of a data set like THINGS-EEG2 with a model that draws by text."""

from neuroimagen.trainer.recipe.suggestion.facts import Facts

FACTS = Facts(
    n_channels=63,
    n_samples=250,
    sfreq=250.0,
    num_classes=40,
    num_train=8000,
    num_train_stimuli=1600,
    train_class_sizes=(200,) * 40,
    tests_seen_classes=True,
    kinds=("vae", "text-class", "text-detailed", "image"),
    embedding_sizes={"image": 768},
    sizes={"latent_shape": [4, 64, 64], "text_shape": [77, 768]},
)
