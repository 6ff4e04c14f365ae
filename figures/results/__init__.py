"""This project's own report on its default subject; nothing else imports this package."""
