-- What stood there before the last step that met the key: the statement that raises a watermark returns it.
ALTER TABLE projector_watermark ADD COLUMN previous INTEGER;
