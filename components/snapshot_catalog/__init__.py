"""What the outside data are today: the stage that notices new data."""
