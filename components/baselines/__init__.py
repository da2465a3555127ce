"""Stage `baselines`: the systems that MACRec is compared with."""
