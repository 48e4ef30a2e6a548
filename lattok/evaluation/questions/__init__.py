"""One module per question: how it is measured, and what the report says about it."""
