"""Recorded drafts, replayed under any policy and any costs."""
