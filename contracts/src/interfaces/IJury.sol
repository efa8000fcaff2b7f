// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Hashing} from "../libraries/Hashing.sol";
import {IDisputes} from "./IDisputes.sol";
import {IJudge} from "./IJudge.sol";

/// @title IJury
/// @notice Whether signed work is false: decided by verifiers that nobody could choose.
/// @dev Work can be tried before it is paid (`accuseReceipt`) and where it was paid (`accuse`). The two
/// know nothing of each other: neither shields from the other, and each can cost one slash. Either way
/// a case goes the same way.
///
/// Holds no money and calls no token; bonds and rewards as in IDisputes. Nothing here needs a
/// particular party to act, and each step has a deadline: at most three times RESPONSE to decide and
/// twice RESPONSE to appeal, from when somebody seats each jury.
interface IJury is IJudge {
    /* TYPES */

    /// @notice One who put up a bond in a case, and for which side.
    struct Party {
        address account;
        uint64 bond;
        bool accuses;
    }

    /// @notice Where a case stands. Verdicts are those of attestations: 1 MATCH, 2 MISMATCH.
    /// @param place Of the leaf. Of work that no batch has paid: whom its order names, `postedAt` when
    /// it was accused, and zeros.
    /// @param price Of the leaf, which is held. Zero for work that no batch has paid.
    /// @param isPosted Whether the work was accused where a batch paid it.
    /// @param eligible Verifiers that may be drawn: the first so many of the list.
    /// @param drawBlock The jury's seed is the mixHash of the block SEED_DELAY after this one.
    /// @param deadline While a jury sits: until when it may decide. After it decided: until when
    /// anyone may appeal. Zero while no jury sits.
    /// @param verdict What the jury of this level decided; 0 while it has not.
    /// @param juryHash keccak256(abi.encode(jurors)) of the seated jury.
    /// @param votersHash keccak256(abi.encode(voters)) of those whose votes decided.
    struct Case {
        IDisputes.Place place;
        bytes32 receiptHash;
        uint64 price;
        uint64 stakeHeld;
        uint32 eligible;
        uint8 level;
        uint8 verdict;
        bool isPosted;
        uint64 drawBlock;
        uint64 deadline;
        bytes32 juryHash;
        bytes32 votersHash;
        Party[] parties;
    }

    /// @notice What became of a receipt that was accused on its own. Kept for good, so that an
    /// outcome can be proven from storage; all zero where it never was, or where no jury decided.
    /// @param id The case.
    /// @param verdict As in `Case`: what the present level decided; final when `isOver`.
    /// @param isOver The case is closed: nobody is tried twice.
    struct Trial {
        uint64 id;
        uint8 verdict;
        bool isOver;
    }

    /// @notice A juror's vote: its attestation on the receipt of the case.
    /// @param seat Place in the jury, from 0.
    struct Vote {
        uint8 seat;
        Hashing.Attestation attestation;
        bytes signature;
    }

    /* ACTIONS */

    /// @notice Opens a case against paid work. Costs JURY_BOND; holds the price, and STAKE_SLASH of
    /// the provider's stake or what there is of it. While the credit has not matured.
    /// @param receipt The payee's, of this leaf, with its signature.
    /// @param eligible How many of the first verifiers had been listed for a whole EPOCH when the
    /// batch was posted; exactly.
    function accuse(
        IDisputes.Batch calldata batch,
        IDisputes.Opening calldata opening,
        Hashing.Receipt calldata receipt,
        bytes calldata receiptSignature,
        uint32 eligible
    ) external returns (uint256 id);

    /// @notice Opens a case against signed work that need not be in any batch: so a forger that is
    /// found out before it is paid loses stake too. Costs JURY_BOND; holds STAKE_SLASH of the stake
    /// or what there is of it, and no price. Until the order expires: so long it could still be paid.
    /// Once a receipt, unless no jury decided.
    /// @dev The order needs no signature: whoever signed the receipt said that it did this work.
    /// @param order The one that the receipt names; the receipt is of one of its units of work.
    /// @param eligible How many of the first verifiers have been listed for a whole EPOCH now; exactly.
    function accuseReceipt(
        Hashing.Order calldata order,
        Hashing.Receipt calldata receipt,
        bytes calldata receiptSignature,
        uint32 eligible
    ) external returns (uint256 id);

    /// @notice Draws the jury of the present level: 5, then 15, then 31, or as many as there are.
    /// @param headerRLP Header of the block SEED_DELAY after the case's `drawBlock`.
    function seatJury(uint256 id, bytes calldata headerRLP) external;

    /// @notice Draws from a later block, when the block's hash can no longer be read.
    function redraw(uint256 id) external;

    /// @notice Records the verdict that a quorum of the jury signed: all of 5, two thirds of 15,
    /// more than half of 31.
    /// @param jury The jury as seated.
    /// @param votes In the order of their seats, all with the same verdict.
    function decide(uint256 id, address[] calldata jury, Vote[] calldata votes) external;

    /// @notice Moves a decided case to the next level. Costs twice the bond of the level below.
    function appeal(uint256 id) external;

    /// @notice Moves a case whose jury did not decide in time to the next level.
    function escalate(uint256 id) external;

    /// @notice Carries out the last verdict once nobody can appeal; or ends a case in which the last
    /// jury did not decide: then all goes back, less what is owed (`owedBy`).
    /// @dev Also when something else voided the payment meanwhile. Only its price is then left alone:
    /// else a coordinator could save a forger from its verdict.
    /// @param voters Those whose votes decided; empty without a verdict.
    function close(uint256 id, address[] calldata voters) external;

    /* VIEWS */

    /// @notice An open case; `receiptHash` is zero when there is none.
    function caseOf(uint256 id) external view returns (Case memory);

    /// @notice What became of a receipt that `accuseReceipt` accused.
    function trialOf(bytes32 receiptHash) external view returns (Trial memory);

    /// @notice What convictions cost an operator beyond the stake that they found: taken from what
    /// other cases hold of it, before they give that back.
    function owedBy(address operator) external view returns (uint64);
}
