"""Crash harnesses: kill -9 and power cuts under load, with a journal of every ack."""
