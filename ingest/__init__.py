"""Mirror a paginated API into a relational database whose foreign keys hold."""

__version__ = "0.1.0"
