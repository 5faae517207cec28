//! Shearling.
