"""What a run takes on a pod that is not there: memory, FLOPs, bytes, collectives, time."""
