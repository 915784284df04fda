"""The batches of a stage, on the device that trains."""
