"""What is read and written: schemas, histories, splits, vectors and encoders."""
