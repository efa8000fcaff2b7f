// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Hashing} from "../libraries/Hashing.sol";
import {IJudge} from "./IJudge.sol";

/// @title IDisputes
/// @notice What can be said against a payment, by whom, until when, and what follows.
/// @dev Holds no money and calls no token. Bonds are taken from the caller's escrow in Settlement and
/// come back there; rewards are credit that matures like any other; refunds go to the requester's
/// escrow. So no dispute is a faster way out than EXIT_DELAY and an epoch. Nothing here needs a particular party to act: anyone may respond, time out, seat,
/// decide, escalate and close.
///
/// A payment line is disputed where it stands: in a batch, lane and index. While a dispute is open
/// its amount is out of the payee's credit, so it cannot mature meanwhile, and no answer is too late
/// for want of money. What comes back goes into the epoch in which it was earned: a dispute that
/// fails delays nobody.
interface IDisputes is IJudge {
    /* TYPES */

    /// @notice A batch as it was posted; all fields are in `BatchPosted`. `coordinator` is this
    /// contract for a direct settlement, which is a batch of one leaf.
    struct Batch {
        address coordinator;
        uint64 seq;
        uint64 postedAt;
        bytes32 dataHash;
        bytes32 root;
        address[] requesters;
        address[] payees;
        bytes lanes;
    }

    /// @notice A leaf and its path: siblings in the tree of its lane, then in the tree of lanes.
    /// @dev Exactly ceil(log2(leaves of the lane)) + ceil(log2(lanes)) of them. An index from the
    /// lane's count up to the next power of two opens as the empty leaf only.
    struct Opening {
        uint16 lane;
        uint32 index;
        Hashing.Leaf leaf;
        bytes32[] hashes;
        uint64[] sums;
    }

    /// @notice All that makes a leaf right. Work needs order and receipt; a check needs the
    /// attestation too; a fee needs the order only. A presigned order needs no signature.
    struct Evidence {
        Hashing.Order order;
        bytes orderSignature;
        Hashing.Receipt receipt;
        bytes receiptSignature;
        Hashing.Attestation attestation;
        bytes attestationSignature;
    }

    /// @notice Where a leaf stands and between whom it moves money.
    struct Place {
        address coordinator;
        uint64 seq;
        uint64 postedAt;
        uint16 lane;
        uint32 index;
        address requester;
        address payee;
        uint64 laneAmount;
    }

    /// @notice An open question about one leaf. The chain keeps only its hash; the fields are in
    /// `Challenged`. `leafHash` is zero when the leaf itself is asked for.
    struct Challenge {
        Place place;
        bytes32 leafHash;
        uint64 price;
        address challenger;
        uint64 deadline;
    }

    /// @notice What is wrong with a leaf by its order alone.
    enum LeafFault {
        NONE,
        WRONG_REQUESTER,
        WRONG_COORDINATOR,
        WRONG_PROVIDER,
        NO_SUCH_LINE,
        PRICE_TOO_HIGH,
        TOO_LATE,
        WRONG_FEE
    }

    /// @notice Why a payment was taken back.
    enum Cause {
        BAD_LEAF,
        DOUBLE,
        UNANSWERED,
        WITHHELD,
        CONVICTED
    }

    /// @notice What has been said about one leaf.
    /// @param open Disputes that hold its price.
    /// @param isChallenged A challenge is open.
    /// @param isAnswered A challenge was answered with full evidence; it is right for good.
    /// @param isAccused A case is open.
    /// @param isJudged A jury has decided; nobody is tried twice.
    /// @param isVoid Its price went back to the requester.
    struct LeafRecord {
        uint8 open;
        bool isChallenged;
        bool isAnswered;
        bool isAccused;
        bool isJudged;
        bool isVoid;
    }

    /// @notice What has been taken out of one lane.
    /// @param aside Of its amount, what is not the payee's credit: held or void.
    /// @param held Of that, what is held for open challenges of the whole lane.
    /// @param open Open challenges of the whole lane.
    struct LaneRecord {
        uint64 aside;
        uint64 held;
        uint32 open;
        bool isVoid;
        bool isSlashed;
    }

    /* ORDERS */

    /// @notice Signs an order by transaction, for requesters that are contracts. For good: no code at
    /// any address can take a signature back before the order expires.
    function presign(Hashing.Order calldata order) external;

    /* CHALLENGES: SHOW THAT THIS IS RIGHT */

    /// @notice Demands the evidence for a leaf. Within OPEN of posting; costs CHALLENGE_BOND.
    /// @return id Number of the challenge.
    function challengeLeaf(Batch calldata batch, Opening calldata opening)
        external
        returns (uint256 id);

    /// @notice Demands a leaf that nobody can show, with its evidence. Holds the whole lane. Within
    /// OPEN of posting; costs CHALLENGE_BOND.
    /// @param index Any index below the lane's padded width.
    function challengeWithheld(Batch calldata batch, uint16 lane, uint32 index)
        external
        returns (uint256 id);

    /// @notice Answers `challengeLeaf`: the payment stands, the challenger's bond is the caller's.
    function respond(
        uint256 id,
        Challenge calldata challenge,
        Hashing.Leaf calldata leaf,
        Evidence calldata evidence
    ) external;

    /// @notice Answers `challengeWithheld`. Padding needs no evidence; any leaf does, also one that is
    /// void already.
    function respondWithheld(
        uint256 id,
        Challenge calldata challenge,
        Batch calldata batch,
        Opening calldata opening,
        Evidence calldata evidence
    ) external;

    /// @notice Ends a challenge that nobody answered in time, or whose object is void already: the
    /// bond goes back; the leaf, or the whole lane, is void; the coordinator is slashed once a lane.
    /// @dev Without deadline.
    function timeout(uint256 id, Challenge calldata challenge) external;

    /* PROOFS: THIS IS WRONG */

    /// @notice Shows by the order alone that a leaf is wrong (`LeafFault`): leaf void, coordinator
    /// slashed. While the credit has not matured or is held in a dispute.
    function proveBadLeaf(
        Batch calldata batch,
        Opening calldata opening,
        Hashing.Order calldata order
    ) external;

    /// @notice Shows that `later` pays what `earlier` paid: the same line of an order, or any line of
    /// it for the same evidence. `later` is void.
    /// @dev Two leaves of one coordinator: the earlier is the smaller (seq, lane, index); the
    /// coordinator is slashed. A direct settlement is always the later one; the evidence of the
    /// earlier leaf must then be whole, and the provider is slashed if it was paid by both.
    function proveDouble(
        Batch calldata earlierBatch,
        Opening calldata earlier,
        Batch calldata laterBatch,
        Opening calldata later,
        Evidence calldata evidence
    ) external;

    /// @notice Shows that a verifier signed both MATCH and MISMATCH for one receipt: it is slashed.
    function proveConflict(
        Hashing.Attestation calldata first,
        bytes calldata firstSignature,
        Hashing.Attestation calldata second,
        bytes calldata secondSignature
    ) external;

    /* DIRECT SETTLEMENT */

    /// @notice Pays a receipt that its coordinator left out. After `order.settleBy`, until
    /// `order.expiry`; each line once. Only the provider or its payout address may call.
    /// @dev The provider must be registered and staked. The credit matures as any other, and can be
    /// disputed by `proveDouble` and `accuse`.
    /// @param assignment The coordinator's; looked at only for an order that names no provider.
    /// @param acceptanceSignature The requester's over Acceptance(receiptHash). Without it, the
    /// evidence must hold a MATCH attestation of a staked verifier with another payout address.
    /// @return seq Number of the direct settlement; the coordinator of its batch is this contract.
    function settleDirect(
        Evidence calldata evidence,
        Hashing.Assignment calldata assignment,
        bytes calldata assignmentSignature,
        bytes calldata acceptanceSignature
    ) external returns (uint64 seq);

    /* JURY */

    /// @notice Holds the price of a leaf that is accused. Only JURY may call.
    /// @return place Where the leaf stands.
    function holdForJury(Batch calldata batch, Opening calldata opening)
        external
        returns (Place memory place);

    /// @notice Ends that: 2 MISMATCH, the leaf is void; else what is held goes back. A leaf that is void
    /// already stays as it is. Only JURY may call.
    function endHold(Place calldata place, uint64 price, uint8 verdict) external;

    /* VIEWS */

    /// @notice Whether an account has signed an order by `presign`.
    function isPresigned(address account, bytes32 orderHash) external view returns (bool);

    /// @notice keccak256(abi.encode(challenge)) of an open challenge, or zero.
    function challengeOf(uint256 id) external view returns (bytes32);

    /// @notice keccak256 of the batch data of a direct settlement, or zero.
    function directOf(uint64 seq) external view returns (bytes32);

    /// @notice Whether a line of an order was settled directly.
    function isSettledDirectly(bytes32 orderHash, uint32 line) external view returns (bool);

    /// @notice What has been said about a leaf.
    function leafOf(address coordinator, uint64 seq, uint16 lane, uint32 index)
        external
        view
        returns (LeafRecord memory);

    /// @notice What has been taken out of a lane.
    function laneOf(address coordinator, uint64 seq, uint16 lane)
        external
        view
        returns (LaneRecord memory);
}
