"""Stage data: files of many kinds and forms become examples, checked, without doubles and leaks, in three splits."""
