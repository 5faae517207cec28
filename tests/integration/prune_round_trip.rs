//! prune_round_trip
