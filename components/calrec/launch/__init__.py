"""Where a stage trains: this process, torchrun, or a TrainJob of Kubeflow Trainer."""
