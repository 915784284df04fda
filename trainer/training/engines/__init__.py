"""The engines that a stage trains on: DeepSpeed behind one adapter, their state, and the averaged weights."""
