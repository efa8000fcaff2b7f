// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title ISeeds
/// @notice Commitments to finished work, and the later randomness that samples it.
/// @dev A commitment made in block b gets its seed from the mixHash of the one block
/// B* = b + SEED_DELAY, so nobody can choose the block, and from nonces whose hash was committed
/// first, so the proposer of B* does not know what the seed will be.
interface ISeeds {
    /* TYPES */

    /// @notice A committed receipt root. The chain keeps only its hash; the fields are in `Committed`.
    struct Commitment {
        bytes32 root;
        bytes32 nonceHash;
        bytes32 dataHash;
        uint64 blockNumber;
    }

    /* ACTIONS */

    /// @notice Commits to `root`. Anyone may: a provider left out by its coordinator commits itself.
    /// @param root Merkle root over receipts.
    /// @param nonceHash keccak256 of the nonce bytes to be revealed in `fixSeed`. The hash of no
    /// bytes promises no nonces.
    /// @param dataHash sha2-256 digest of the CID under which the leaves are published.
    /// @return seq The committer's number of this commitment, from 0.
    function commit(bytes32 root, bytes32 nonceHash, bytes32 dataHash) external returns (uint64 seq);

    /// @notice Fixes the seed of a commitment, once. Anyone may call.
    /// @param committer Who committed.
    /// @param seq The committer's number of the commitment.
    /// @param commitment Its fields, as in `Committed`.
    /// @param headerRLP RLP of the header of block B*. It must hash to B*'s block hash: by
    /// `blockhash` up to 256 blocks later, by EIP-2935 up to 8191 blocks later, then never.
    /// @param nonces Bytes that hash to `nonceHash`; or none, once NONCE_TIMEOUT blocks have passed
    /// since B*.
    /// @return seed keccak256(abi.encode(SEED_TAG, chainid, this, committer, seq, root, mixHash,
    /// keccak256(nonces))).
    function fixSeed(
        address committer,
        uint64 seq,
        Commitment calldata commitment,
        bytes calldata headerRLP,
        bytes calldata nonces
    ) external returns (bytes32 seed);

    /* VIEWS */

    /// @notice keccak256(abi.encode(root, nonceHash, dataHash, blockNumber, seed)) of a commitment,
    /// with seed zero until it is fixed; zero when there is none. One storage slot, so one storage
    /// proof shows all of it.
    function commitmentOf(address committer, uint64 seq) external view returns (bytes32);

    /// @notice How many commitments `committer` has made.
    function commitCountOf(address committer) external view returns (uint64);

    /* IMMUTABLES */
    // solhint-disable func-name-mixedcase

    /// @notice Domain tag of seeds: keccak256("gpumarket.seed.v1").
    function SEED_TAG() external view returns (bytes32);
    /// @notice Blocks from commitment to B*.
    function SEED_DELAY() external view returns (uint64);
    /// @notice Blocks after B* from which a seed needs no nonces.
    function NONCE_TIMEOUT() external view returns (uint64);
}
