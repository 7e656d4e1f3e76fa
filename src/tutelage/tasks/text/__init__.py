"""Text: sentences of intents, words of slots, and words that are hidden."""
