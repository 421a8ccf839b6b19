"""Math answers: read from a completion, compared with the gold answer, and turned into rewards."""
