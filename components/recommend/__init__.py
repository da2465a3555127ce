"""Stage recommend: ranks the best items for every user from their whole history."""
