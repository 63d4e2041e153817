//! Bytes of a picture to the network's input, as the reference does it.
