"""Taking a model away: other formats, and a card that says what it is."""
