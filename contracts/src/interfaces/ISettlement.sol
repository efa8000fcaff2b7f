// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "./IDisputes.sol";
import {IJury} from "./IJury.sol";
import {ISeeds} from "./ISeeds.sol";

/// @title ISettlement
/// @notice Escrow, bonds, stakes and batched payment for one gpumarket, in one ERC-20 token.
/// @dev No owner, no pause, no proxy. Amounts are base units of `TOKEN` (at most 6 decimals); the
/// contract never holds more than `type(uint64).max` of them, so no sum of amounts can overflow.
/// Times are unix seconds unless a name says blocks.
///
/// `postBatch` enforces the bond, every requester's solvency and that debits equal credits. It does
/// not look at orders: a payment without one is taken back by anybody who says so in time, and costs
/// the coordinator its bond (IDisputes). Credit matures only after that time.
interface ISettlement is ISeeds {
    /* TYPES */

    /// @notice Constructor parameters; none can change later.
    /// @param token ERC-20 with at most 6 decimals, without fee on transfer and without rebasing.
    /// @param epoch Seconds in a credit epoch. Credit of epoch e can be claimed from epoch e + 2.
    /// @param open Seconds after posting during which a leaf may be challenged.
    /// @param response Seconds in which a challenge must be answered, a jury must decide, and a
    /// verdict can be appealed.
    /// @param exitDelay Seconds between asking for money back and taking it.
    /// @param seedDelay Blocks between a commitment and the block whose mixHash seeds its sample.
    /// @param nonceTimeout Blocks after that block from which a seed needs no nonces.
    /// @param minBond Least bond, net of what is being unbonded, with which a coordinator may post.
    /// @param minStake Least stake of a provider or verifier.
    /// @param challengeBond Bond of a challenge: more than the gas of an answer is worth.
    /// @param juryBond Bond of an accusation: what a first jury's work is worth, twice.
    /// @param bondSlash What a coordinator loses for a faulty lane; at most a quarter of minBond.
    /// @param stakeSlash What a provider or verifier loses for a proven fault; at most minStake.
    struct Config {
        address token;
        uint64 epoch;
        uint64 open;
        uint64 response;
        uint64 exitDelay;
        uint64 seedDelay;
        uint64 nonceTimeout;
        uint64 minBond;
        uint64 minStake;
        uint64 challengeBond;
        uint64 juryBond;
        uint64 bondSlash;
        uint64 stakeSlash;
    }

    /// @notice Where money of an account lies that Disputes may move. BURNT is nobody's.
    enum Pocket {
        ESCROW,
        CREDIT,
        BOND,
        STAKE,
        BURNT
    }

    /// @notice What an operator key is registered as.
    enum Role {
        NONE,
        PROVIDER,
        VERIFIER
    }

    /// @notice A requester's escrow. `withdrawing` is part of `balance` and can still be spent by
    /// batches until it is taken, so a requester cannot run from work already ordered. Do not count
    /// it for new orders: once unlocked it can be gone in the next block.
    struct Requester {
        uint64 balance;
        uint64 withdrawing;
        uint64 unlockAt;
    }

    /// @notice A coordinator's bond. `unbonding` is part of `bond` but no longer counts as bond.
    struct Coordinator {
        uint64 bond;
        uint64 unbonding;
        uint64 unlockAt;
        uint64 batches;
    }

    /// @notice A provider or verifier. Its key is the hot operator address; `payout` is cold.
    /// `unstaking` is part of `stake` but no longer counts as stake.
    struct Operator {
        address payout;
        Role role;
        uint64 stakedAt;
        uint64 stake;
        uint64 unstaking;
        uint64 unlockAt;
        bytes32 peerIdHash;
    }

    /// @notice A verifier and when it first staked.
    struct Listing {
        address operator;
        uint64 listedAt;
    }

    /// @notice Credit of a payee: `available` can be claimed; `prev` and `cur` were earned in the
    /// epoch before `epoch` and in `epoch`.
    struct Payee {
        uint64 available;
        uint64 prev;
        uint64 cur;
        uint32 epoch;
    }

    /* EVENTS */

    /// @notice For each 16-byte lane, its amount left a requester's escrow for a payee's credit.
    /// @dev Carries all that the batch commitment hashes, so leaves can be challenged from logs. It is
    /// logged from the bytes that were hashed, without `emit`; standing here it is in the ABI all the
    /// same. All other events are in EventsLib.
    event BatchPosted(
        address indexed coordinator,
        uint64 indexed seq,
        uint64 postedAt,
        bytes32 dataHash,
        bytes32 root,
        address[] requesters,
        address[] payees,
        bytes lanes
    );

    /* REQUESTER */

    /// @notice Moves `amount` from the caller into its escrow. Needs an allowance.
    function deposit(uint256 amount) external;

    /// @notice As `deposit`, with an EIP-2612 permit for exactly `amount`. A permit that fails
    /// (somebody sent it first) is ignored: only the allowance counts.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;

    /// @notice Asks for `amount` of escrow back after `EXIT_DELAY`. A new request replaces the old
    /// one and starts the clock again; zero cancels.
    function requestWithdraw(uint256 amount) external;

    /// @notice Pays the requested amount, or what batches have left of it, to `to`.
    /// @return amount Base units paid.
    function withdraw(address to) external returns (uint256 amount);

    /* COORDINATOR */

    /// @notice Adds `amount` to the caller's coordinator bond. Needs an allowance.
    function bond(uint256 amount) external;

    /// @notice Asks for `amount` of bond back after `EXIT_DELAY`; it stops counting at once. A new
    /// request replaces the old one and starts the clock again; zero cancels.
    function requestUnbond(uint256 amount) external;

    /// @notice Pays the requested bond, or what slashing has left of it, to `to`.
    /// @return amount Base units paid.
    function unbond(address to) external returns (uint256 amount);

    /// @notice Settles work: takes each lane's amount from its requester, credits its payee.
    /// @dev Enforced here: the caller's bond, every requester's solvency, that debits equal
    /// credits, and the bounds. That orders exist is enforced by IDisputes.
    /// @param notAfter Last second in which this may happen: the earliest `settleBy` of its orders.
    /// Whoever holds a transaction back could else make an honest coordinator's payments late, and
    /// late is a fault.
    /// @param dataHash sha2-256 digest of the batch document's CID: orders, receipts, attestations.
    /// @param root Sum-tree root over the lanes, each the root and amount of its own sum tree.
    /// @param requesters Accounts that pay; at most one for each lane.
    /// @param payees Accounts that are credited (providers, verifiers, the coordinator); at most
    /// one for each lane. Registration is not required: a payee that left must not block a batch.
    /// @param lanes 1 to 256 packed lanes of 16 bytes: uint16 index into `requesters`, uint16 index
    /// into `payees`, uint32 count of leaves (> 0), uint64 amount. Big endian.
    /// @return seq The coordinator's number of this batch, from 0.
    function postBatch(
        uint64 notAfter,
        bytes32 dataHash,
        bytes32 root,
        address[] calldata requesters,
        address[] calldata payees,
        bytes calldata lanes
    ) external returns (uint64 seq);

    /* PROVIDER AND VERIFIER */

    /// @notice Registers the caller as a provider, or adds to its stake. Needs an allowance.
    /// @param amount Base units to add; the stake must then be at least `MIN_STAKE`.
    /// @param payout Cold address that receives claims and the stake. Fixed at first registration:
    /// later calls must repeat it, and only itself can change it.
    /// @param peerIdHash keccak256 of the libp2p peer id bytes; each call replaces it.
    function stakeProvider(uint256 amount, address payout, bytes32 peerIdHash) external;

    /// @notice As `stakeProvider`, for a verifier. One key has one role for good.
    function stakeVerifier(uint256 amount, address payout, bytes32 peerIdHash) external;

    /// @notice Asks for `amount` of an operator's stake back after `EXIT_DELAY`; it stops counting
    /// at once. The rest must be zero or at least `MIN_STAKE`. Callable by operator and payout. A
    /// new request replaces the old one and starts the clock again; zero cancels.
    function requestUnstake(address operator, uint256 amount) external;

    /// @notice Pays the requested stake to the operator's payout address. Callable by both.
    /// @return amount Base units paid.
    function unstake(address operator) external returns (uint256 amount);

    /// @notice Changes where `payee` is paid. Callable by its present payout address; by the payee
    /// itself while it has none.
    function changePayout(address payee, address payout) external;

    /// @notice Pays a payee's matured credit to its payout address, else to the payee. Anyone may
    /// call: the money can go nowhere else.
    /// @return amount Base units paid.
    function claim(address payee) external returns (uint256 amount);

    /// @notice Pays a payee's matured credit to `to`, for one whose payout address the token refuses.
    /// @param deadline Unix seconds until when the signature counts.
    /// @param signature The payout address's, over Claim(payee, to, nonce, deadline) with the nonce
    /// `claimNonceOf(payee)`. ECDSA only; a contract can call `changePayout` instead.
    /// @return amount Base units paid.
    function claimTo(address payee, address to, uint256 deadline, bytes calldata signature)
        external
        returns (uint256 amount);

    /* DISPUTES */

    /// @notice Holds money that is disputed. Only DISPUTES and JURY may call.
    /// @dev ESCROW and CREDIT: exactly `amount`, or it reverts; credit that has matured cannot be
    /// taken. BOND and STAKE: what there is, at most `amount`.
    /// @param since For CREDIT, when it was earned.
    /// @return taken Base units that are now held.
    function take(Pocket from, address account, uint64 amount, uint64 since)
        external
        returns (uint64 taken);

    /// @notice Gives of what is held to ESCROW, CREDIT, STAKE or BURNT. Only DISPUTES and JURY may call; never
    /// more than was taken.
    /// @param since For CREDIT, when it counts as earned.
    function give(Pocket to, address account, uint64 amount, uint64 since) external;

    /* VIEWS */

    /// @notice A requester's escrow.
    function requesterOf(address account) external view returns (Requester memory);

    /// @notice A coordinator's bond and its count of batches.
    function coordinatorOf(address account) external view returns (Coordinator memory);

    /// @notice A registered provider or verifier; `role` is NONE for others.
    function operatorOf(address account) external view returns (Operator memory);

    /// @notice A payee's credit as of this block: `available` is what `claim` pays now.
    function payeeOf(address account) external view returns (Payee memory);

    /// @notice Where claims of `payee` go.
    function payoutOf(address payee) external view returns (address);

    /// @notice How often `claimTo` has paid for a payee.
    function claimNonceOf(address payee) external view returns (uint256);

    /// @notice How many verifiers have ever been listed.
    function verifierCount() external view returns (uint256);

    /// @notice The verifier at `index`, in the order of first stakes, and when that was.
    function verifierAt(uint256 index) external view returns (address operator, uint64 listedAt);

    /// @notice What Disputes and Jury have taken and not given back.
    function held() external view returns (uint256);

    /// @notice What was slashed and is nobody's.
    function burnt() external view returns (uint256);

    /// @notice keccak256(abi.encode(uint64 postedAt, dataHash, root, requesters, payees, lanes)) of a
    /// batch, or zero. All inputs are in `BatchPosted`; a dispute opens a leaf against it.
    function batchOf(address coordinator, uint64 seq) external view returns (bytes32);

    /// @notice Number of the present credit epoch.
    function currentEpoch() external view returns (uint32);

    /// @notice EIP-712 separator of name "gpumarket", version "1".
    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32);

    /* IMMUTABLES */
    // solhint-disable func-name-mixedcase

    /// @notice Challenges, proofs and direct settlement. With JURY, alone may `take` and `give`.
    function DISPUTES() external view returns (IDisputes);
    /// @notice Cases about paid work.
    function JURY() external view returns (IJury);
    /// @notice The one token of this deployment.
    function TOKEN() external view returns (address);
    /// @notice Seconds in a credit epoch.
    function EPOCH() external view returns (uint64);
    /// @notice Seconds in which a leaf may be challenged.
    function OPEN() external view returns (uint64);
    /// @notice Seconds in which a challenge must be answered.
    function RESPONSE() external view returns (uint64);
    /// @notice Seconds between asking for money back and taking it.
    function EXIT_DELAY() external view returns (uint64);
    /// @notice Longest time from now to an order's expiry that escrow is sure to outlast:
    /// EXIT_DELAY - OPEN - RESPONSE.
    function ORDER_LIFETIME() external view returns (uint64);
    /// @notice Least bond with which a coordinator may post.
    function MIN_BOND() external view returns (uint64);
    /// @notice Least stake of a provider or verifier.
    function MIN_STAKE() external view returns (uint64);
    /// @notice Bond of a challenge. A reporter earns at most ten times this.
    function CHALLENGE_BOND() external view returns (uint64);
    /// @notice Bond of an accusation; each appeal costs twice the one before.
    function JURY_BOND() external view returns (uint64);
    /// @notice What a coordinator loses for a faulty lane.
    function BOND_SLASH() external view returns (uint64);
    /// @notice What a provider or verifier loses for a proven fault.
    function STAKE_SLASH() external view returns (uint64);
    /// @notice Most lanes in a batch.
    function MAX_LANES() external view returns (uint256);
}
