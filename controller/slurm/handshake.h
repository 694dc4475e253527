// How the two ends of a worker's connection prove to each other that they know the same secret, which neither sends:
//
//   relay ▶ magic, nonce_r            agent ▶ magic, nonce_a, HMAC(secret, "agent"  nonce_r nonce_a)
//   relay ▶ HMAC(secret, "relay" nonce_a nonce_r)
//
// HMAC-SHA-256 over fresh nonces of both: an answer heard before answers no other question, and neither side can be made
// to answer its own. Both are proved, since a worker loads what it is told to, and a controller believes what it is told.
// What follows is not encrypted: who can read or change packets between the nodes can read the questions and spoil a
// trial, as he can with everything else that Slurm's programs send.
#pragma once

#include <string>
#include <string_view>

namespace hproc::controller {

inline constexpr std::string_view kMagic = "HPROC1";
inline constexpr size_t kNonceBytes = 32;
inline constexpr size_t kProofBytes = 32;

// Fresh from the kernel's generator.
std::string MakeNonce();
// As hexadecimal, for an environment variable; never on a command line, which anybody can read.
std::string MakeSecret();
// What the agent of a rank shows to know: of rank 0 the secret itself, of the others one made of it.
std::string SecretOfRank(const std::string& secret, int rank);

std::string RelayGreeting(std::string_view nonce_r);
std::string AgentAnswer(std::string_view secret, std::string_view nonce_r, std::string_view nonce_a);
// Whether `answer` (all of it) is that of an agent with the secret; then what proves the relay to it.
bool CheckAgentAnswer(std::string_view secret, std::string_view nonce_r, std::string_view answer);
std::string RelayProof(std::string_view secret, std::string_view nonce_a, std::string_view nonce_r);
bool CheckRelayProof(std::string_view secret, std::string_view nonce_a, std::string_view nonce_r, std::string_view proof);

inline constexpr size_t kGreetingBytes = kMagic.size() + kNonceBytes;
inline constexpr size_t kAnswerBytes = kMagic.size() + kNonceBytes + kProofBytes;

}  // namespace hproc::controller
