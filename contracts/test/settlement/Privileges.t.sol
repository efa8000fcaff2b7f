// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {ISeeds} from "../../src/interfaces/ISeeds.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {Scene} from "../Scene.sol";
import {VM} from "../Vm.sol";

/// @notice Nobody is privileged. The lists here are complete: the selectors are read out of the
/// deployed code, so a function that is added is found missing.
contract PrivilegesTest is Scene {
    address internal nobody;

    function setUp() public override {
        super.setUp();
        nobody = _account("nobody in particular");
        _fund(nobody, 1e12);
    }

    /* G10: NO ADMIN, NO PAUSE, NO UPGRADE */

    function test_G10_EveryFunctionThatChangesStateIsListed() external view {
        _compareSelectors(address(settlement), _join(_settlementViews(), _settlementActions()));
        _compareSelectors(address(disputes), _join(_disputesViews(), _disputesActions()));
        _compareSelectors(address(jury), _join(_juryViews(), _juryActions()));
    }

    /// @notice Whatever somebody may do in Settlement, anybody may do for itself.
    function test_G10_AnybodyMayDoAllThatSettlementDoes() external {
        bytes[17] memory life = [
            abi.encodeCall(settlement.deposit, (100e6)),
            abi.encodeCall(settlement.depositWithPermit, (1, 0, 0, 0, 0)),
            abi.encodeCall(settlement.bond, (MIN_BOND)),
            abi.encodeCall(settlement.stakeProvider, (MIN_STAKE, nobody, PEER)),
            abi.encodeCall(settlement.commit, (ROOT, keccak256(""), DATA)),
            abi.encodeCall(
                settlement.postBatch,
                (NEVER, DATA, ROOT, _one(nobody), _one(nobody), _lane(0, 0, 1, 5))
            ),
            abi.encodeCall(
                settlement.postBatch,
                (NEVER, DATA, ROOT, _one(nobody), _one(BOB), _lane(0, 0, 1, 5))
            ),
            abi.encodeCall(settlement.requestWithdraw, (1)),
            abi.encodeCall(settlement.requestUnbond, (1)),
            abi.encodeCall(settlement.requestUnstake, (nobody, MIN_STAKE)),
            "",
            abi.encodeCall(settlement.withdraw, (nobody)),
            abi.encodeCall(settlement.unbond, (nobody)),
            abi.encodeCall(settlement.unstake, (nobody)),
            abi.encodeCall(settlement.claim, (BOB)),
            _claimCall(),
            abi.encodeCall(settlement.changePayout, (nobody, COLD))
        ];
        for (uint256 i = 0; i < life.length; ++i) {
            if (life[i].length == 0) VM.warp(START + EXIT_DELAY);
            else _mustAsNobody(life[i]);
        }
        _mustFixSeed();
        // One key has one role, so the last function needs another key.
        _fund(STRANGER, MIN_STAKE);
        VM.prank(STRANGER);
        settlement.stakeVerifier(MIN_STAKE, STRANGER, PEER);
    }

    /// @notice Where the judges refuse, they refuse what was said, not who said it.
    function test_G10_AnybodyMaySpeakToTheJudges() external {
        IDisputes.Batch memory batch;
        IDisputes.Opening memory opening;
        IDisputes.Challenge memory challenge;
        IDisputes.Evidence memory evidence;
        Hashing.Attestation memory attestation;
        Hashing.Assignment memory assignment;
        // Only whoever an order or a receipt names may presign or settle it: here, nobody.
        evidence.order.requester = nobody;
        evidence.receipt.provider = nobody;
        bytes[10] memory calls = [
            abi.encodeCall(disputes.presign, (evidence.order)),
            abi.encodeCall(disputes.challengeLeaf, (batch, opening)),
            abi.encodeCall(disputes.challengeWithheld, (batch, 0, 0)),
            abi.encodeCall(disputes.respond, (1, challenge, opening.leaf, evidence)),
            abi.encodeCall(disputes.respondWithheld, (1, challenge, batch, opening, evidence)),
            abi.encodeCall(disputes.timeout, (1, challenge)),
            abi.encodeCall(disputes.proveBadLeaf, (batch, opening, evidence.order)),
            abi.encodeCall(disputes.proveDouble, (batch, opening, batch, opening, evidence)),
            abi.encodeCall(disputes.proveConflict, (attestation, "", attestation, "")),
            abi.encodeCall(disputes.settleDirect, (evidence, assignment, "", ""))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            _mustNotAskWho(address(disputes), calls[i]);
        }
        bytes[8] memory juryCalls = [
            abi.encodeCall(jury.accuse, (batch, opening, evidence.receipt, "", 0)),
            abi.encodeCall(jury.seatJury, (1, "")),
            abi.encodeCall(jury.redraw, (1)),
            abi.encodeCall(jury.decide, (1, new address[](0), new IJury.Vote[](0))),
            abi.encodeCall(jury.appeal, (1)),
            abi.encodeCall(jury.escalate, (1)),
            abi.encodeCall(jury.close, (1, new address[](0))),
            abi.encodeCall(jury.accuseReceipt, (evidence.order, evidence.receipt, "", 0))
        ];
        for (uint256 i = 0; i < juryCalls.length; ++i) {
            _mustNotAskWho(address(jury), juryCalls[i]);
        }
    }

    /// @notice The four that only a contract of the three may call.
    function test_G10_OnlyTheContractsThemselvesMoveWhatIsHeld() external {
        IDisputes.Batch memory batch;
        IDisputes.Opening memory opening;
        IDisputes.Place memory place;
        _mustRefuse(
            address(settlement),
            address(disputes),
            abi.encodeCall(settlement.take, (ISettlement.Pocket.ESCROW, nobody, 0, 0))
        );
        _mustRefuse(
            address(settlement),
            address(disputes),
            abi.encodeCall(settlement.give, (ISettlement.Pocket.ESCROW, nobody, 0, 0))
        );
        _mustRefuse(
            address(disputes), address(jury), abi.encodeCall(disputes.holdForJury, (batch, opening))
        );
        _mustRefuse(
            address(disputes), address(jury), abi.encodeCall(disputes.endHold, (place, 0, 2))
        );
    }

    function test_G10_TheCodeIsWhatItIs() external view {
        address[3] memory contracts_ = [address(settlement), address(disputes), address(jury)];
        for (uint256 i = 0; i < contracts_.length; ++i) {
            bytes memory code = contracts_[i].code;
            // No proxy and no end: neither DELEGATECALL, CALLCODE nor SELFDESTRUCT.
            assertEq(_count(code, 0xf4), 0, "delegatecall");
            assertEq(_count(code, 0xf2), 0, "callcode");
            assertEq(_count(code, 0xff), 0, "selfdestruct");
        }
    }

    /* LISTS */

    function _settlementActions() internal view returns (bytes4[] memory list) {
        list = new bytes4[](19);
        list[0] = settlement.deposit.selector;
        list[1] = settlement.depositWithPermit.selector;
        list[2] = settlement.requestWithdraw.selector;
        list[3] = settlement.withdraw.selector;
        list[4] = settlement.bond.selector;
        list[5] = settlement.requestUnbond.selector;
        list[6] = settlement.unbond.selector;
        list[7] = settlement.postBatch.selector;
        list[8] = settlement.stakeProvider.selector;
        list[9] = settlement.stakeVerifier.selector;
        list[10] = settlement.requestUnstake.selector;
        list[11] = settlement.unstake.selector;
        list[12] = settlement.changePayout.selector;
        list[13] = settlement.claim.selector;
        list[14] = settlement.claimTo.selector;
        list[15] = settlement.commit.selector;
        list[16] = settlement.fixSeed.selector;
        list[17] = settlement.take.selector;
        list[18] = settlement.give.selector;
    }

    function _settlementViews() internal view returns (bytes4[] memory list) {
        list = new bytes4[](34);
        list[0] = settlement.requesterOf.selector;
        list[1] = settlement.coordinatorOf.selector;
        list[2] = settlement.operatorOf.selector;
        list[3] = settlement.payeeOf.selector;
        list[4] = settlement.payoutOf.selector;
        list[5] = settlement.claimNonceOf.selector;
        list[6] = settlement.verifierCount.selector;
        list[7] = settlement.verifierAt.selector;
        list[8] = settlement.held.selector;
        list[9] = settlement.burnt.selector;
        list[10] = settlement.batchOf.selector;
        list[11] = settlement.currentEpoch.selector;
        list[12] = settlement.DOMAIN_SEPARATOR.selector;
        list[13] = settlement.DISPUTES.selector;
        list[14] = settlement.JURY.selector;
        list[15] = settlement.TOKEN.selector;
        list[16] = settlement.EPOCH.selector;
        list[17] = settlement.OPEN.selector;
        list[18] = settlement.RESPONSE.selector;
        list[19] = settlement.EXIT_DELAY.selector;
        list[20] = settlement.ORDER_LIFETIME.selector;
        list[21] = settlement.MIN_BOND.selector;
        list[22] = settlement.MIN_STAKE.selector;
        list[23] = settlement.CHALLENGE_BOND.selector;
        list[24] = settlement.JURY_BOND.selector;
        list[25] = settlement.BOND_SLASH.selector;
        list[26] = settlement.STAKE_SLASH.selector;
        list[27] = settlement.MAX_LANES.selector;
        list[28] = settlement.SEED_TAG.selector;
        list[29] = settlement.SEED_DELAY.selector;
        list[30] = settlement.NONCE_TIMEOUT.selector;
        list[31] = settlement.commitmentOf.selector;
        list[32] = settlement.commitCountOf.selector;
        list[33] = settlement.eip712Domain.selector;
    }

    function _disputesActions() internal view returns (bytes4[] memory list) {
        list = new bytes4[](12);
        list[0] = disputes.presign.selector;
        list[1] = disputes.challengeLeaf.selector;
        list[2] = disputes.challengeWithheld.selector;
        list[3] = disputes.respond.selector;
        list[4] = disputes.respondWithheld.selector;
        list[5] = disputes.timeout.selector;
        list[6] = disputes.proveBadLeaf.selector;
        list[7] = disputes.proveDouble.selector;
        list[8] = disputes.proveConflict.selector;
        list[9] = disputes.settleDirect.selector;
        list[10] = disputes.holdForJury.selector;
        list[11] = disputes.endHold.selector;
    }

    function _disputesViews() internal view returns (bytes4[] memory list) {
        list = new bytes4[](7);
        list[0] = disputes.SETTLEMENT.selector;
        list[1] = disputes.isPresigned.selector;
        list[2] = disputes.challengeOf.selector;
        list[3] = disputes.directOf.selector;
        list[4] = disputes.isSettledDirectly.selector;
        list[5] = disputes.leafOf.selector;
        list[6] = disputes.laneOf.selector;
    }

    function _juryActions() internal view returns (bytes4[] memory list) {
        list = new bytes4[](8);
        list[0] = jury.accuse.selector;
        list[1] = jury.seatJury.selector;
        list[2] = jury.redraw.selector;
        list[3] = jury.decide.selector;
        list[4] = jury.appeal.selector;
        list[5] = jury.escalate.selector;
        list[6] = jury.close.selector;
        list[7] = jury.accuseReceipt.selector;
    }

    function _juryViews() internal view returns (bytes4[] memory list) {
        list = new bytes4[](4);
        list[0] = jury.SETTLEMENT.selector;
        list[1] = jury.caseOf.selector;
        list[2] = jury.trialOf.selector;
        list[3] = jury.owedBy.selector;
    }

    /* READING CODE */

    /// @dev The dispatcher compares each selector so: PUSH4 selector, EQ, PUSH2 target, JUMPI.
    function _compareSelectors(address target, bytes4[] memory expected) internal view {
        bytes memory code = target.code;
        uint256 found = 0;
        for (uint256 i = 0; i + 9 < code.length; ++i) {
            if (code[i] != 0x63 || code[i + 5] != 0x14 || code[i + 6] != 0x61) continue;
            if (code[i + 9] != 0x57) continue;
            bytes4 selector =
                bytes4(bytes.concat(code[i + 1], code[i + 2], code[i + 3], code[i + 4]));
            assertTrue(_contains(expected, selector), "a function that is not in the list");
            ++found;
        }
        assertEq(found, expected.length, "functions found, functions listed");
    }

    /// @dev How often an instruction occurs, not counting the bytes that are pushed.
    function _count(bytes memory code, uint8 opcode) internal pure returns (uint256 count) {
        for (uint256 i = 0; i < code.length; ++i) {
            uint8 present = uint8(code[i]);
            if (present == opcode) ++count;
            if (present >= 0x60 && present <= 0x7f) i += present - 0x5f;
            if (present != 0xfe) continue;
            // What follows the last instruction is the compiler's data, and little.
            assertTrue(10 * i > 9 * code.length, "nearly all of the code was read");
            break;
        }
    }

    function _contains(bytes4[] memory list, bytes4 value) internal pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == value) return true;
        }
        return false;
    }

    function _join(bytes4[] memory first, bytes4[] memory second)
        internal
        pure
        returns (bytes4[] memory list)
    {
        list = new bytes4[](first.length + second.length);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = i < first.length ? first[i] : second[i - first.length];
        }
    }

    /* CALLING */

    function _claimCall() internal view returns (bytes memory) {
        bytes32 claim = Hashing.claim(nobody, COLD, 0, type(uint256).max);
        return
            abi.encodeCall(
                settlement.claimTo, (nobody, COLD, type(uint256).max, _sign(nobody, claim))
            );
    }

    function _mustFixSeed() internal {
        bytes memory header = _header(keccak256("mix"));
        uint256 seedBlock = 1000 + SEED_DELAY;
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(header));
        ISeeds.Commitment memory commitment = ISeeds.Commitment(ROOT, keccak256(""), DATA, 1000);
        _mustAsNobody(abi.encodeCall(settlement.fixSeed, (nobody, 0, commitment, header, "")));
    }

    function _mustAsNobody(bytes memory call_) internal {
        VM.prank(nobody);
        (bool ok, bytes memory answer) = address(settlement).call(call_);
        if (ok) return;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    function _mustNotAskWho(address target, bytes memory call_) internal {
        VM.prank(nobody);
        (bool ok, bytes memory answer) = target.call(call_);
        assertTrue(ok || bytes4(answer) != ErrorsLib.NotAuthorized.selector, "asked who");
        assertTrue(ok || answer.length >= 4, "a reason is given");
    }

    function _mustRefuse(address target, address expected, bytes memory call_) internal {
        VM.prank(nobody);
        (bool ok, bytes memory answer) = target.call(call_);
        assertTrue(!ok, "refused");
        assertEq(
            keccak256(answer),
            keccak256(abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, expected, nobody)),
            "because of who asks"
        );
    }
}
