"""The tables of the mirror, one module a subject; everything is importable from here."""

from schema.fansly.models.accounts import Account, Wall
from schema.fansly.models.base import Base, ContentType
from schema.fansly.models.media import (
    AccountMedia,
    AccountMediaBundle,
    BundleContent,
    Media,
    MediaLocation,
    media_variants,
)
from schema.fansly.models.messages import Group, Message, MessageAttachment, group_members
from schema.fansly.models.posts import Hashtag, Post, PostAttachment, post_hashtags, post_mentions, post_walls

__all__ = [
    "Account",
    "AccountMedia",
    "AccountMediaBundle",
    "Base",
    "BundleContent",
    "ContentType",
    "Group",
    "Hashtag",
    "Media",
    "MediaLocation",
    "Message",
    "MessageAttachment",
    "Post",
    "PostAttachment",
    "Wall",
    "group_members",
    "media_variants",
    "post_hashtags",
    "post_mentions",
    "post_walls",
]
