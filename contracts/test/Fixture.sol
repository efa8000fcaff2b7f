// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Disputes} from "../src/Disputes.sol";
import {Jury} from "../src/Jury.sol";
import {Settlement} from "../src/Settlement.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {TestToken} from "../src/mocks/TestToken.sol";
import {VM} from "./Vm.sol";

/// @notice A deployed market, its parties, and the few assertions the tests need.
abstract contract Fixture {
    uint64 internal constant EPOCH = 3 days;
    uint64 internal constant OPEN = 1 days;
    uint64 internal constant RESPONSE = 1 days;
    uint64 internal constant EXIT_DELAY = 7 days;
    uint64 internal constant SEED_DELAY = 4;
    uint64 internal constant NONCE_TIMEOUT = 100;
    uint64 internal constant MIN_BOND = 1_000e6;
    uint64 internal constant MIN_STAKE = 100e6;
    uint64 internal constant CHALLENGE_BOND = 5e6;
    uint64 internal constant JURY_BOND = 20e6;
    uint64 internal constant BOND_SLASH = 200e6;
    uint64 internal constant STAKE_SLASH = 80e6;
    /// @dev A multiple of EPOCH, so that tests can speak of the first second of an epoch.
    uint256 internal constant START = uint256(EPOCH) * 7000;

    address internal constant ALICE = address(0xA11CE);
    address internal constant BOB = address(0xB0B);
    address internal constant COORDINATOR = address(0xC00D);
    address internal constant PROVIDER = address(0x9807);
    address internal constant VERIFIER = address(0x7E81);
    address internal constant COLD = address(0xC01D);
    address internal constant STRANGER = address(0x57A6);
    uint64 internal constant NEVER = type(uint64).max;
    bytes32 internal constant PEER = keccak256("peer");
    bytes32 internal constant DATA = keccak256("batch document");
    bytes32 internal constant ROOT = keccak256("batch root");

    TestToken internal token;
    Settlement internal settlement;
    Disputes internal disputes;
    Jury internal jury;

    function setUp() public virtual {
        VM.warp(START);
        VM.roll(1000);
        token = new TestToken();
        _deploy(_config(address(token)));
    }

    /* SET-UP */

    /// @dev The judges are created first, for the address that Settlement will have.
    function _deploy(ISettlement.Config memory config) internal {
        address expected = VM.computeCreateAddress(address(this), VM.getNonce(address(this)) + 2);
        disputes = new Disputes(expected);
        jury = new Jury(expected);
        settlement = new Settlement(config, disputes, jury);
    }

    function _config(address tokenAddress) internal pure returns (ISettlement.Config memory) {
        return ISettlement.Config({
            token: tokenAddress,
            epoch: EPOCH,
            open: OPEN,
            response: RESPONSE,
            exitDelay: EXIT_DELAY,
            seedDelay: SEED_DELAY,
            nonceTimeout: NONCE_TIMEOUT,
            minBond: MIN_BOND,
            minStake: MIN_STAKE,
            challengeBond: CHALLENGE_BOND,
            juryBond: JURY_BOND,
            bondSlash: BOND_SLASH,
            stakeSlash: STAKE_SLASH
        });
    }

    /// @dev Mints and approves, so that `account` can pay `amount` in.
    function _fund(address account, uint256 amount) internal {
        token.mint(account, amount);
        VM.prank(account);
        token.approve(address(settlement), type(uint256).max);
    }

    function _deposit(address account, uint256 amount) internal {
        _fund(account, amount);
        VM.prank(account);
        settlement.deposit(amount);
    }

    function _bond(address account, uint256 amount) internal {
        _fund(account, amount);
        VM.prank(account);
        settlement.bond(amount);
    }

    function _stakeProvider(address account, address payout, uint256 amount) internal {
        _fund(account, amount);
        VM.prank(account);
        settlement.stakeProvider(amount, payout, PEER);
    }

    /* BATCHES */

    function _lane(uint16 requester, uint16 payee, uint32 count, uint64 amount)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(requester, payee, count, amount);
    }

    function _one(address account) internal pure returns (address[] memory list) {
        list = new address[](1);
        list[0] = account;
    }

    function _two(address first, address second) internal pure returns (address[] memory list) {
        list = new address[](2);
        (list[0], list[1]) = (first, second);
    }

    /// @dev One lane from ALICE to `payee`, by a bonded COORDINATOR.
    function _pay(address payee, uint64 amount) internal returns (uint64) {
        VM.prank(COORDINATOR);
        return
            settlement.postBatch(
                NEVER, DATA, ROOT, _one(ALICE), _one(payee), _lane(0, 0, 1, amount)
            );
    }

    /* HEADERS */

    /// @dev RLP of a header as long as a real one of Prague: 21 fields, 600 bytes and some.
    function _header(bytes32 mixHash) internal pure returns (bytes memory) {
        bytes memory hash = abi.encodePacked(bytes1(0xa0), keccak256("field"));
        bytes memory fields = bytes.concat(hash, hash, abi.encodePacked(bytes1(0x94), COORDINATOR));
        fields = bytes.concat(fields, hash, hash, hash, hex"b90100", new bytes(256), hex"80");
        fields = bytes.concat(fields, hex"830f4240", hex"8401c9c380", hex"82ffff", hex"8465000000");
        fields = bytes.concat(fields, hex"80", hex"a0", mixHash, hex"880000000000000000");
        fields = bytes.concat(fields, hex"85012a05f200", hash, hex"80", hex"80", hash, hash);
        return bytes.concat(hex"f9", bytes2(uint16(fields.length)), fields);
    }

    /* ASSERTIONS */

    function assertEq(uint256 actual, uint256 expected, string memory what) internal pure {
        require(
            actual == expected,
            string.concat(what, ": ", VM.toString(actual), " != ", VM.toString(expected))
        );
    }

    function assertEq(address actual, address expected, string memory what) internal pure {
        require(actual == expected, what);
    }

    function assertEq(bytes32 actual, bytes32 expected, string memory what) internal pure {
        require(actual == expected, what);
    }

    function assertTrue(bool condition, string memory what) internal pure {
        require(condition, what);
    }
}
