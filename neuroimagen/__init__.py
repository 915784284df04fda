"""Pictures from EEG: data, training, reconstruction and evaluation. The folders beside this file are its rooms."""

__version__ = "0.1.0"
