// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {IJury} from "../interfaces/IJury.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";

/// @title EventsLib
/// @notice Every event but BatchPosted, which is in ISettlement. One of Settlement's is emitted for each change of a balance and carries the
/// amount moved, so that all balances can be rebuilt from its logs alone. Those of Disputes say why.
library EventsLib {
    /* REQUESTER */

    /// @notice `amount` entered a requester's escrow.
    event Deposited(address indexed requester, uint256 amount);
    /// @notice A requester asked for `amount` back at `unlockAt`; moves nothing.
    event WithdrawRequested(address indexed requester, uint256 amount, uint64 unlockAt);
    /// @notice `amount` left a requester's escrow and the contract.
    event Withdrawn(address indexed requester, address indexed to, uint256 amount);

    /* COORDINATOR */

    /// @notice `amount` entered a coordinator's bond.
    event Bonded(address indexed coordinator, uint256 amount);
    /// @notice A coordinator asked for `amount` back at `unlockAt`; moves nothing.
    event UnbondRequested(address indexed coordinator, uint256 amount, uint64 unlockAt);
    /// @notice `amount` left a coordinator's bond and the contract.
    event Unbonded(address indexed coordinator, address indexed to, uint256 amount);

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
    /// @notice `amount` left a payee's credit and the contract, to `to`.
    event Claimed(address indexed payee, address indexed to, uint256 amount);

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

    /* MONEY IN DISPUTE */

    /// @notice `amount` left an account's pocket and is held. For credit, `since` is when it was
    /// earned.
    event Taken(
        ISettlement.Pocket indexed from, address indexed account, uint256 amount, uint64 since
    );
    /// @notice `amount` of what is held went into an account's pocket. For credit, it matures as if
    /// earned at `since`; for what is burnt, the account is who lost it.
    event Given(
        ISettlement.Pocket indexed to, address indexed account, uint256 amount, uint64 since
    );

    /* ORDERS */

    /// @notice A contract signed an order by transaction.
    event Presigned(address indexed requester, bytes32 indexed orderHash, uint64 expiry);

    /* CHALLENGES */

    /// @notice The evidence of a leaf was demanded, with a bond.
    event Challenged(
        uint256 indexed id,
        address indexed coordinator,
        address indexed challenger,
        IDisputes.Challenge challenge
    );
    /// @notice A challenge was answered, or not in time; the bond is `bondTo`'s.
    event ChallengeEnded(uint256 indexed id, bool indexed answered, address indexed bondTo);

    /* FAULTS */

    /// @notice The price of a leaf went back to its requester.
    event LeafVoided(
        address indexed coordinator,
        uint64 indexed seq,
        uint16 lane,
        uint32 index,
        uint64 price,
        IDisputes.Cause cause
    );
    /// @notice What was held of a lane went back to its requester: nobody showed one of its leaves.
    event LaneVoided(address indexed coordinator, uint64 indexed seq, uint16 lane, uint64 amount);
    /// @notice `amount` of a bond or stake was lost; what the three did not get was burnt.
    event Slashed(
        address indexed account,
        address indexed reporter,
        address indexed harmed,
        uint64 amount,
        uint64 toReporter,
        uint64 toHarmed,
        uint64 toJurors
    );

    /* DIRECT SETTLEMENT */

    /// @notice A receipt was settled without its coordinator.
    event DirectSettled(
        uint64 indexed seq,
        address indexed requester,
        address indexed provider,
        uint64 postedAt,
        bytes32 orderHash,
        uint32 unit,
        bytes32 receiptHash,
        uint64 price
    );

    /* JURY */

    /// @notice Signed work was called false, with a bond; `isPosted` says whether where it was paid.
    event CaseOpened(
        uint256 indexed id, address indexed provider, address indexed accuser, IJury.Case case_
    );
    /// @notice The jury of a level was drawn by the seed of block `blockNumber`.
    event JurySeated(
        uint256 indexed id,
        uint8 level,
        uint64 blockNumber,
        bytes32 seed,
        address[] jury,
        uint64 deadline
    );
    /// @notice The jury will be drawn by a later block.
    event JuryRedrawn(uint256 indexed id, uint64 drawBlock);
    /// @notice A quorum signed a verdict, which anyone may appeal until `deadline`.
    event Decided(
        uint256 indexed id, uint8 level, uint8 verdict, address[] voters, uint64 deadline
    );
    /// @notice A verdict was appealed to `level`, with a bond.
    event Appealed(uint256 indexed id, uint8 level, address indexed appellant, uint64 bond);
    /// @notice A jury did not decide in time; the case goes to `level`.
    event Escalated(uint256 indexed id, uint8 level);
    /// @notice A case ended: 1 not guilty, 2 guilty, 0 neither.
    event CaseClosed(uint256 indexed id, address indexed provider, uint8 verdict);
}
