"""What each feature is called: label sets, notes, agreement between labellers."""
