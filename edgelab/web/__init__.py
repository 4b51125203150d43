"""The pages of the book that compute in the reader's browser: their runtime, their models and their data."""
