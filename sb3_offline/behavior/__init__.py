"""Who acted in the data, and where: the behaviour policy and n(s). Imports training and below."""
