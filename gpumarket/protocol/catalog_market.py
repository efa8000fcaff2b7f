"""
The rows of the error catalog about files, machines, wallets and the market: 1xxx to 4xxx.

First line: code, HTTP status, how a command exits, whose fault, `retry` or `final`.
Then the title, the summary, and one remedy a line: text that reads like the page it becomes.
"""

from __future__ import annotations

ROWS: tuple[str, ...] = (
    # ---- 1xxx: usage, files, orders --------------------------------------------------------
    """GM-1001 400 USAGE requester final
wrong usage
The command or request is not one we know, or a value in it cannot be read.
gpumarket --help""",
    """GM-1002 404 NOT_FOUND requester final
no such name
There is no job, error code, schema, profile or account of this name here.
gpumarket job list
gpumarket explain --list""",
    """GM-1003 400 USAGE requester final
an answer is needed, but nobody can be asked
The command would ask before it moves money, but input or output is not a terminal.
add -y to say yes beforehand""",
    """GM-1004 403 NOT_ALLOWED requester final
the answer was no
The question was answered with anything but yes; nothing was done.
run the command again and answer y""",
    """GM-1101 400 INVALID_FILE requester final
the file cannot be read
The job file does not exist, is not text, is too large, or may not be read.
gpumarket job init -o job.yaml""",
    """GM-1102 400 INVALID_FILE requester final
the file is not YAML
The text breaks YAML's own rules, so nothing in it can be checked yet.
look at the line named in the message; tabs and unclosed quotes are the usual causes""",
    """GM-1103 400 INVALID_FILE requester final
a required field is missing
The job file leaves out something a job cannot do without.
gpumarket schema job""",
    """GM-1104 400 INVALID_FILE requester final
unknown field
The job file has a field the format does not know; it is refused rather than ignored.
gpumarket schema job""",
    """GM-1105 400 INVALID_FILE requester final
a value does not fit its field
A value has the wrong form or is out of range.
gpumarket schema job""",
    """GM-1106 400 INVALID_FILE requester final
two fields exclude each other
The job file sets fields that cannot be meant together.
remove one of the two fields""",
    """GM-1107 400 INVALID_FILE requester final
not one of the choices
A field has a fixed list of values and this is none of them.
gpumarket schema job""",
    """GM-1108 400 INVALID_FILE requester final
an amount without its token
Money is written as a decimal and a token, so that nobody has to guess the unit.
write it like  12.50 USDC""",
    """GM-1109 400 INVALID_FILE requester final
a size without its unit
A bare number would mean bytes, which is too few to be meant.
write it like  16GB""",
    """GM-1121 400 INVALID_FILE requester final
the split names an input that does not exist
A job is split over one of its inputs, called by its name.
use one of the names under inputs""",
    """GM-1122 400 INVALID_FILE requester final
a local file does not exist
A `file:` path is looked up from the folder of the job file.
check the path, or use ipfs://CID for content that is elsewhere""",
    """GM-1123 400 INVALID_FILE requester final
the split gives no tasks or too many
A job has between 1 and 10,000 tasks.
change split.size""",
    """GM-1130 400 INVALID_FILE requester final
the image is neither local nor content-addressed
Images come as an archive: a local file, or a CID with the digest. Registries are not used yet.
docker save IMAGE -o image.tar    and write  image: file:image.tar""",
    """GM-1131 400 INVALID_FILE requester final
the image has no digest
The order signs the exact image, so its digest must be known before signing.
add  image_digest: sha256:...""",
    """GM-1132 400 INVALID_FILE requester final
image and job ask for different hardware
An image for CUDA runs on no AMD device, nor one for ROCm on NVIDIA's.
ask for the vendor that the image is built for, or take another image""",
    """GM-1140 400 INVALID_FILE requester final
not supported yet
The format has this field, this release does not carry it out; it is refused, not ignored.
remove the field""",
    """GM-1150 400 NO_MONEY requester final
the budget is too small to promise anything
Shared over all tasks and checks, the budget is less than one base unit each.
raise budget.max, or make fewer tasks with split.size""",
    """GM-1201 409 CONFLICT requester final
the order does not belong to this job
The signed order and the job sent with it disagree.
gpumarket job run FILE    (plans and signs again)""",
    """GM-1202 409 CONFLICT requester final
the order has expired
The order's times have passed or are out of order.
gpumarket job run FILE    (plans and signs again)""",
    """GM-1203 409 CONFLICT requester final
this order was sent before with another content
An idempotency key or order nonce names another request already.
gpumarket job list""",
    """GM-1204 401 NOT_ALLOWED requester final
a signature is missing or wrong
The request needs the signature of the account it speaks for.
gpumarket wallet list
gpumarket config show --origin""",
    """GM-1205 409 CONFLICT requester final
the order binds longer than its escrow is sure to last
Escrow can be taken back after the exit delay; an order that ends later could be left unpaid.
gpumarket job run FILE    (plans and signs again)""",
    """GM-1301 400 INVALID_FILE requester final
the configuration file cannot be read
It does not exist or is not TOML.
gpumarket config show --origin""",
    """GM-1302 400 INVALID_FILE requester final
a setting is invalid
The configuration has a key we do not know or a value that does not fit.
gpumarket config show --origin""",
    """GM-1303 400 INVALID_FILE requester final
a setting for the devnet only
Simulated devices, cheats and test keys exist on chain 31337 only.
remove the setting, or use the devnet""",
    """GM-1304 400 INVALID_FILE requester final
a file of acceptances that cannot be used
It is not one, is of another market, or has no receipt that this node has signed.
gpumarket job accept JOB --out FILE    (run by the requester)""",
    """GM-1401 404 NOT_FOUND requester final
there is no devnet here
No devnet was started in this folder.
gpumarket devnet up""",
    """GM-1402 409 CONFLICT requester final
a devnet runs already
One folder holds one devnet.
gpumarket devnet down""",
    # ---- 2xxx: this machine ----------------------------------------------------------------
    """GM-2001 500 DOCTOR_BLOCKS none final
doctor found something that blocks
At least one check of this machine or configuration must pass before work can start.
follow the fix printed under the check""",
    """GM-2101 503 DOCTOR_BLOCKS provider final
no Docker engine answers
Tasks run in containers; without an engine this machine can neither provide nor verify.
sudo apt-get install docker.io
sudo systemctl start docker""",
    """GM-2102 503 DOCTOR_BLOCKS provider final
this user may not use Docker
The engine is there but refuses this user.
sudo usermod -aG docker $USER    (then log in again)""",
    """GM-2103 503 DOCTOR_BLOCKS provider final
the GPU is not visible inside containers
Docker cannot hand the GPU to a container; the container toolkit is missing or not registered.
sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker""",
    """GM-2110 503 DOCTOR_BLOCKS provider final
the engine does not enforce the sandbox's limits
A limit that was asked for is not in force, so strangers' programs are not run here.
gpumarket doctor --role provider""",
    """GM-2120 503 DOCTOR_BLOCKS none final
the local chain is not installed
A devnet needs anvil, which set-up installs.
scripts/setup""",
    """GM-2130 503 DOCTOR_BLOCKS none final
the reproducibility class could not be probed
A small fixed program must run once at the start, to say which machines give the same bits.
look at the reason in the message; a variable of `emulate` may be one that NumPy refuses
gpumarket doctor""",
    """GM-2140 503 DOCTOR_BLOCKS provider final
a device driver does not answer
The driver's library is there, but the driver is not loaded, or is of another version.
sudo modprobe nvidia
nvidia-smi""",
    """GM-2141 503 DOCTOR_BLOCKS provider final
a device is failing
It does not answer the driver, or its memory has errors that were not corrected; it is not offered.
gpumarket provider bench""",
    """GM-2142 503 DOCTOR_BLOCKS provider final
a partitioned device has no partitions
Multi-instance mode is on, and no instance was made, so there is nothing of it to sell.
sudo nvidia-smi mig -cgi 9 -C
sudo nvidia-smi -mig 0""",
    """GM-2143 503 DOCTOR_BLOCKS provider final
a device plug-in failed
A plug-in of `gpumarket.accelerators` ended badly, took too long, or named what it may not.
update the plug-in, or uninstall it""",
    """GM-2144 503 DOCTOR_BLOCKS provider final
a device is slowed down
Heat or its power supply holds its clocks down; it may miss the bounds of challenges.
improve its cooling, or check its power cables
gpumarket provider bench""",
    """GM-2201 503 DOCTOR_BLOCKS none final
too little disk
The data folder has less free space than tasks and content need.
free space, or set data_dir to another disk""",
    """GM-2202 503 DOCTOR_BLOCKS none final
the clock is off
Promises carry times; a clock that is off by more than 30 seconds makes them invalid.
sudo timedatectl set-ntp true""",
    # ---- 3xxx: wallet and chain ------------------------------------------------------------
    """GM-3001 503 UNREACHABLE chain retry
the chain cannot be reached
The RPC endpoint did not answer, or not with what was asked.
gpumarket config show --origin
gpumarket doctor""",
    """GM-3002 502 MARKET_FAILED chain retry
the chain does not know a block
The RPC endpoint does not have a block that should be there; it may have pruned it.
use another RPC endpoint, for old blocks an archive node""",
    """GM-3003 409 MARKET_FAILED chain retry
a transaction was not mined in time
The transaction was sent, and sent again for more, but no block has it yet; it may still come, once.
gpumarket wallet balance
look whether it came before running the command again; what still waits is then replaced""",
    """GM-3004 502 MARKET_FAILED chain retry
the chain's node refuses a transaction
The node would not take the transaction for a reason of its own; no block has seen it.
use another RPC endpoint""",
    """GM-3005 409 CONFLICT chain retry
another program sends with this key
The place of this transaction in the account's order was taken by one that we did not send.
run the command again
give each program a key of its own""",
    """GM-3006 409 CONFLICT chain final
a transaction was too late
It had to be mined by a time; it was not sent after that, and one that still waited was taken back.
look at the times of what it was about""",
    """GM-3007 502 MARKET_FAILED chain retry
the node does not prove the state of a block
Nodes keep the state of the last blocks only, and some serve no eth_getProof at all.
ask sooner after the job is settled, or of an archive node
gpumarket audit verify PROOF --rpc URL""",
    """GM-3010 402 NO_MONEY requester final
not enough tokens in the wallet
The account holds less than should be moved.
gpumarket wallet balance""",
    """GM-3011 402 NO_MONEY requester final
not enough in escrow
A job may cost up to its budget, and that much must be free in escrow before it starts.
gpumarket wallet deposit AMOUNT
lower budget.max in the job file""",
    """GM-3012 402 NO_MONEY none final
not enough gas
The account cannot pay the chain for a transaction.
send the account some of the chain's own coin""",
    """GM-3013 409 CONFLICT requester final
the money is not free
It is locked for running jobs, or a withdrawal has not matured.
gpumarket wallet balance""",
    """GM-3014 402 NO_MONEY coordinator final
the coordinator's bond is too small
Without the full bond a coordinator may post no batch, so nobody should work for it.
choose another coordinator
gpumarket explain GM-3014""",
    """GM-3020 409 CONFLICT requester final
wrong network
The coordinator, the RPC and the configuration must mean one chain; they do not.
gpumarket config show --origin""",
    """GM-3021 503 UNREACHABLE chain retry
the contract is not there
The chain has no settlement contract at the configured address.
gpumarket config show --origin""",
    """GM-3022 403 NOT_ALLOWED requester final
test keys are for the devnet only
The private key of this account is public; on a real chain anybody could take its money.
gpumarket wallet new""",
    """GM-3030 409 CONFLICT requester final
the evidence does not show it
Something in the evidence is missing, altered, or about another payment than the one named.
build the evidence again from the batch's document
gpumarket audit verify PROOF""",
    """GM-3031 403 NOT_ALLOWED requester final
not the signature that is needed
A signature is by another key, over other words, for another chain, or malformed.
sign again with the key named in the message""",
    """GM-3032 409 CONFLICT requester final
too late
The time in which the contract takes this call is over; later calls may still be open.
gpumarket wallet balance""",
    """GM-3033 409 CONFLICT requester retry
too early
The contract takes this call from the time or block named in the message on.
run the command again then""",
    """GM-3034 409 CONFLICT chain final
it is done already
There is nothing open that this call could change; somebody else may have been faster.
read the chain again""",
    """GM-3035 409 CONFLICT requester final
not the next step of the case
A case is drawn, decided, appealed or raised, and closed; this call is for another step.
read the case again""",
    """GM-3036 402 NO_MONEY provider final
too little at stake
Bond and stake must be at least what the contract says, without what is being taken out.
stake or bond more""",
    """GM-3037 403 NOT_ALLOWED requester final
not for this account
Only another account, or one registered in another role, may do this.
use the account named in the message""",
    """GM-3038 502 MARKET_FAILED chain final
the token does not do what a token should
The token refused to move, moved another amount, or froze an account.
gpumarket wallet balance""",
    """GM-3039 409 CONFLICT coordinator final
the batch is malformed
The coordinator put together a batch that the contract cannot add up.
report it: an honest coordinator never posts this""",
    """GM-3040 400 USAGE requester final
a value that the contract does not take
An amount, address or parameter is outside what the contract allows.
look at the value named in the message""",
    """GM-3055 409 CONFLICT chain final
the contract refuses this call
In its present state the contract will refuse this call every time.
gpumarket explain GM-3055
look at the revert named in the message""",
    """GM-3056 409 CONFLICT chain retry
somebody was faster
Another transaction changed what this one relied on; read again, then decide.
run the command again""",
    """GM-3101 404 NOT_FOUND requester final
no such key
No key file of this name or address is in the keystore folder.
gpumarket wallet list
gpumarket wallet new""",
    """GM-3102 403 NOT_ALLOWED requester final
a key is readable by others
Key files and password files must be readable by their owner only.
chmod 600 FILE""",
    """GM-3103 403 NOT_ALLOWED requester final
the key file cannot be opened
The password is missing or wrong, or the file is not a version 3 keystore.
set GPUMARKET_PASSWORD_FILE to a file with the password""",
    """GM-3104 409 CONFLICT requester final
a key is never overwritten
There is a key file of this name already.
gpumarket wallet list""",
    # ---- 4xxx: market ----------------------------------------------------------------------
    """GM-4021 409 NO_OFFER network retry
no provider can run this job now
No provider online satisfies every requirement; the counts say where each one falls out.
gpumarket job plan FILE --explain
gpumarket market offers""",
    """GM-4022 409 NO_OFFER network retry
the job waited too long for a provider
Nothing started within limits.queue; the job ended and nothing was charged.
raise limits.queue, or relax the requirement named in the message""",
    """GM-4031 403 MARKET_FAILED provider final
an offer is refused
A provider's offer breaks a rule of this market.
look at the reason in the provider's log""",
    """GM-4040 409 CONFLICT provider final
the price is above what is asked
A lease or offer asks more than the order allows.
gpumarket market offers""",
    """GM-4050 409 MARKET_FAILED none retry
devices are being challenged
A provider gets no task before its devices showed what they can do. Nothing is charged for it.
wait: a challenge takes seconds to a few minutes
gpumarket market offers""",
    """GM-4051 403 MARKET_FAILED provider retry
a device did not answer its challenge in time
Slower, smaller or busier than offered: it is off the book until it passes; nothing is slashed.
offer the device under its own name and memory
stop other programs on the device; it is challenged again in five minutes""",
    """GM-4052 403 MARKET_FAILED provider retry
a device's answer to its challenge is wrong
Its row or walk is not what the seed gives: off the book until it passes, nothing slashed.
look at the reason in the provider's log
test the device's memory; it is challenged again in five minutes""",
)
