"""Everything behind the durable queue: dispatch, submit, record, track, reconcile and protect."""
