"""The front door: one thin file a verb."""
