//! softvirt
