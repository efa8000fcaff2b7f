// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../interfaces/ISettlement.sol";

/// @title EventsLib
/// @notice Every event. One is emitted for each change of a balance and carries the amount moved,
/// so that all balances can be rebuilt from logs alone.
library EventsLib {
    /* REQUESTER */

    /// @notice `amount` entered a requester's escrow.
    event Deposited(address indexed requester, uint256 amount);
    /// @notice A requester asked for `amount` back at `unlockAt`; moves nothing.
    event WithdrawRequested(address indexed requester, uint256 amount, uint64 unlockAt);
    /// @notice `amount` left a requester's escrow and the contract.
    event Withdrawn(address indexed requester, uint256 amount);

    /* COORDINATOR */

    /// @notice `amount` entered a coordinator's bond.
    event Bonded(address indexed coordinator, uint256 amount);
    /// @notice A coordinator asked for `amount` back at `unlockAt`; moves nothing.
    event UnbondRequested(address indexed coordinator, uint256 amount, uint64 unlockAt);
    /// @notice `amount` left a coordinator's bond and the contract.
    event Unbonded(address indexed coordinator, uint256 amount);

    /// @notice For each 48-byte lane, its amount left a requester's escrow for a payee's credit.
    /// @dev Carries all that the batch commitment hashes, so leaves can be challenged from logs.
    event BatchPosted(
        address indexed coordinator,
        uint64 indexed seq,
        uint64 postedAt,
        bytes32 dataHash,
        address[] requesters,
        address[] payees,
        bytes lanes
    );

    /* PROVIDER AND VERIFIER */

    /// @notice `amount` entered an operator's stake.
    event Staked(
        address indexed operator,
        ISettlement.Role indexed role,
        address indexed payout,
        bytes32 peerIdHash,
        uint256 amount
    );
    /// @notice `amount` of an operator's stake was asked back at `unlockAt`; moves nothing.
    event UnstakeRequested(address indexed operator, uint256 amount, uint64 unlockAt);
    /// @notice `amount` left an operator's stake and the contract, to `payout`.
    event Unstaked(address indexed operator, address indexed payout, uint256 amount);
    /// @notice Claims of `payee` go to `payout` from now on; moves nothing.
    event PayoutChanged(
        address indexed payee, address indexed previousPayout, address indexed payout
    );
    /// @notice `amount` left a payee's credit and the contract, to `payout`.
    event Claimed(address indexed payee, address indexed payout, uint256 amount);

    /* SEEDS */

    /// @notice A receipt root was committed in block `blockNumber`.
    event Committed(
        address indexed committer,
        uint64 indexed seq,
        bytes32 root,
        bytes32 nonceHash,
        bytes32 dataHash,
        uint64 blockNumber
    );
    /// @notice A commitment got its seed from `mixHash` of block `blockNumber`.
    event SeedFixed(
        address indexed committer,
        uint64 indexed seq,
        uint64 blockNumber,
        bytes32 mixHash,
        bytes32 seed
    );
}
