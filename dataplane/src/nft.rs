//! Our own nft table `inet fabric`, rendered as one transaction.
