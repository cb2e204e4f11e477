"""Dead letters for people: list them, look at one, send them again. `worker.deadletter` owns how one is written."""
