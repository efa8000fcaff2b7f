// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title ErrorsLib
/// @notice Every error. Values come in the order expected, then actual.
library ErrorsLib {
    /* CONSTRUCTION */

    /// @notice The token has more decimals than 64-bit amounts allow.
    error TooManyDecimals(uint8 maximum, uint8 actual);
    /// @notice A constructor parameter breaks a bound; `name` is its field in `Config`.
    error BadConfig(bytes32 name, uint256 bound, uint256 actual);

    /* MONEY */

    /// @notice An amount of zero moves nothing.
    error ZeroAmount();
    /// @notice The zero address and the contract itself cannot hold credit or be paid.
    error BadAddress(address actual);
    /// @notice The token moved another amount than asked: fee on transfer or rebasing.
    error TransferMismatch(uint256 expected, uint256 actual);
    /// @notice The contract would hold more tokens than 64-bit amounts can count.
    error HoldingsTooLarge(uint256 maximum, uint256 actual);
    /// @notice An account has less than is needed of it.
    error InsufficientBalance(address account, uint256 needed, uint256 actual);
    /// @notice Nothing was requested back, or batches have spent all of it.
    error NothingRequested(address account);
    /// @notice The exit delay has not passed.
    error StillLocked(uint256 unlockAt, uint256 actual);
    /// @notice No credit has matured.
    error NothingToClaim(address payee);

    /* COORDINATOR */

    /// @notice The bond that counts is below the minimum.
    error BondTooSmall(uint256 minimum, uint256 actual);
    /// @notice The packed lanes are not 1 to the maximum of whole lanes.
    error BadLanesLength(uint256 laneBytes, uint256 maximumLanes, uint256 actualBytes);
    /// @notice More requesters or payees than lanes.
    error TooManyParties(uint256 maximum, uint256 actual);
    /// @notice A lane names a party beyond its list.
    error BadLaneIndex(uint256 lane, uint256 length, uint256 actual);
    /// @notice A lane without leaves.
    error EmptyLane(uint256 lane);

    /* PROVIDER AND VERIFIER */

    /// @notice The stake would be below the minimum.
    error StakeTooSmall(uint256 minimum, uint256 actual);
    /// @notice The operator key is registered in the other role.
    error WrongRole(uint8 expected, uint8 actual);
    /// @notice The operator key is registered with another payout address.
    error WrongPayout(address expected, address actual);
    /// @notice The caller may not do this for that operator or payee.
    error NotAuthorized(address expected, address actual);

    /* SEEDS */

    /// @notice There is no such commitment.
    error UnknownCommitment(address committer, uint64 seq);
    /// @notice A seed is fixed only once.
    error SeedAlreadyFixed(bytes32 seed);
    /// @notice The seed block is not yet in the past.
    error SeedBlockNotReached(uint256 earliest, uint256 actual);
    /// @notice The seed block's hash can no longer be read on chain.
    error SeedBlockTooOld(uint256 latest, uint256 actual);
    /// @notice The header is not that of the seed block.
    error WrongHeader(bytes32 expected, bytes32 actual);
    /// @notice The nonces are not the committed ones.
    error WrongNonces(bytes32 expected, bytes32 actual);
    /// @notice Empty nonces are accepted only from a later block.
    error NoncesStillAwaited(uint256 earliest, uint256 actual);
    /// @notice The bytes are not the RLP of a block header.
    error BadHeader();

    /* TREES */

    /// @notice A tree without leaves, or leaves and sums of different counts.
    error BadLeaves(uint256 expected, uint256 actual);
}
