"""What clusters are, in words: rules over the context of a token, learned and scored on different documents."""
