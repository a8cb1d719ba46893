"""The examination of a machine: every kernel against its twin, whose products are faster, donation, memory."""
