"""What we measure against our goals and our peers; one script a question."""
