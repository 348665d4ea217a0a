"""Make a teacher of the user's classes, and leave it as a folder that timm loads."""
