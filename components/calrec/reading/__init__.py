"""Raw bytes of any format → records of events and items; ingest and recommend read with it."""
