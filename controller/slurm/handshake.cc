#include "controller/slurm/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <cerrno>

#include "base/check.h"

namespace hproc::controller {
namespace {

std::string Proof(std::string_view secret, std::string_view who, std::string_view first, std::string_view second) {
  const std::string text = std::string(who).append(first).append(second);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HPROC_CHECK(HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                   reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size) != nullptr,
              "HMAC");
  return {reinterpret_cast<const char*>(digest), size};
}

std::string Hex(std::string_view bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (const char byte : bytes) {
    hex += kHex[static_cast<unsigned char>(byte) >> 4];
    hex += kHex[static_cast<unsigned char>(byte) & 15];
  }
  return hex;
}

// In a time that does not tell where they differ.
bool Equal(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

std::string MakeNonce() {
  std::string bytes(kNonceBytes, '\0');
  ssize_t got = -1;
  do {
    got = ::getrandom(bytes.data(), bytes.size(), 0);
  } while (got < 0 && errno == EINTR);
  HPROC_CHECK(got == static_cast<ssize_t>(bytes.size()), "getrandom");
  return bytes;
}

std::string MakeSecret() { return Hex(MakeNonce()); }

std::string SecretOfRank(const std::string& secret, int rank) {
  return rank == 0 ? secret : Hex(Proof(secret, "rank", std::to_string(rank), ""));
}

std::string RelayGreeting(std::string_view nonce_r) { return std::string(kMagic).append(nonce_r); }

std::string AgentAnswer(std::string_view secret, std::string_view nonce_r, std::string_view nonce_a) {
  return std::string(kMagic).append(nonce_a).append(Proof(secret, "agent", nonce_r, nonce_a));
}

bool CheckAgentAnswer(std::string_view secret, std::string_view nonce_r, std::string_view answer) {
  if (answer.size() != kAnswerBytes || !answer.starts_with(kMagic)) return false;
  const std::string_view nonce_a = answer.substr(kMagic.size(), kNonceBytes);
  return Equal(answer.substr(kMagic.size() + kNonceBytes), Proof(secret, "agent", nonce_r, nonce_a));
}

std::string RelayProof(std::string_view secret, std::string_view nonce_a, std::string_view nonce_r) {
  return Proof(secret, "relay", nonce_a, nonce_r);
}

bool CheckRelayProof(std::string_view secret, std::string_view nonce_a, std::string_view nonce_r, std::string_view proof) {
  return Equal(proof, Proof(secret, "relay", nonce_a, nonce_r));
}

}  // namespace hproc::controller
