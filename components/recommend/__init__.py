"""Stage recommend: the best items for every user, from the whole of his history."""
