"""What people and programs see: text, JSON, tables, the live view and saved views."""
