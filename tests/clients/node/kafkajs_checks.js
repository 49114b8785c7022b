// What kafkajs does with a broker. kafkajs_checks.js before|after BOOTSTRAP PREFIX
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const zstd = require('@bokuweb/zstd-wasm')
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = new (require('kafkajs-lz4'))().codec
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

const [when, bootstrap, prefix] = process.argv.slice(2)
const FIRST_TIMESTAMP = 1600000000000
const RECORDS = 30
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }
const kafka = new Kafka({ clientId: prefix, brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 8 } })
let failures = 0

const key = i => (i % 7 === 3 ? null : `key-${i}`)
const value = (word, i) => (i % 11 === 5 ? null : `${word}-${i}-${'padding '.repeat(20)}`)
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
const text = buffer => (buffer === null ? null : buffer.toString())

async function check(name, run) {
  try {
    await run()
    console.log(`ok ${name}`)
  } catch (error) {
    failures++
    console.log(`FAILED ${name}: ${String(error.stack || error).split('\n').slice(0, 2).join(' ')}`)
  }
}
function expect(expected, seen, what) {
  const [a, b] = [JSON.stringify(expected), JSON.stringify(seen)]
  if (a !== b) throw new Error(`${what}: expected ${String(a).slice(0, 300)}, saw ${String(b).slice(0, 300)}`)
}
async function eventually(what, probe, seen, seconds = 30) {
  const deadline = Date.now() + seconds * 1000
  while (!probe()) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}; last seen: ${JSON.stringify(seen())}`)
    await sleep(20)
  }
}

async function withProducer(options, run) {
  const producer = kafka.producer(options)
  await producer.connect()
  try {
    return await run(producer)
  } finally {
    await producer.disconnect()
  }
}
const messages = (word, from, to) => Array.from({ length: to - from }, (_, n) => from + n).map(i => (
  { partition: 0, key: key(i), value: value(word, i), timestamp: String(FIRST_TIMESTAMP + i * 1000), headers: { number: String(i) } }))

// Everything of a topic's only partition, by a group of its own; kafkajs has no consumer without one.
async function readAll(topic, count) {
  const consumer = kafka.consumer({ groupId: `${prefix}-${topic}-${process.pid}-${Date.now()}`, sessionTimeout: 10000, heartbeatInterval: 500, maxWaitTimeInMs: 200 })
  const records = []
  await consumer.connect()
  try {
    await consumer.subscribe({ topic, fromBeginning: true })
    await consumer.run({ autoCommit: false, eachMessage: async ({ message }) => { records.push(message) } })
    await eventually(`${count} records of ${topic}`, () => records.length >= count, () => records.length)
  } finally {
    await consumer.disconnect()
  }
  return records
}
async function readBack(topic, word, count = RECORDS) {
  const records = await readAll(topic, count)
  records.forEach((record, i) => {
    expect(String(i), record.offset, 'offset')
    expect(key(i), text(record.key), `key at ${i}`)
    expect(value(word, i), text(record.value), `value at ${i}`)
    expect(String(FIRST_TIMESTAMP + i * 1000), record.timestamp, `timestamp at ${i}`)
    expect(String(i), text(record.headers.number), `header at ${i}`)
  })
  expect(count, records.length, 'records')
}
// kafkajs does not wait for a topic that its own metadata request has the broker create.
async function createTopic(topic) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: 1, replicationFactor: 1 }] })
  } finally {
    await admin.disconnect()
  }
}
async function codec(name) {
  const topic = `${prefix}-${name}`
  await createTopic(topic)
  await withProducer({}, async producer => {
    const [sent] = await producer.send({ topic, acks: -1, compression: CompressionTypes[CODECS[name]], messages: messages(name, 0, RECORDS) })
    expect('0', sent.baseOffset, 'base offset')
  })
  await readBack(topic, name)
}
async function acks(setting) {
  const topic = `${prefix}-acks-${setting}`
  await createTopic(topic)
  await withProducer({}, producer => producer.send({ topic, acks: setting, messages: messages('acks', 0, RECORDS) }))
  await readBack(topic, 'acks')
}
async function idempotent() {
  const topic = `${prefix}-idempotent`
  await createTopic(topic)
  await withProducer({ idempotent: true, maxInFlightRequests: 1 }, async producer => {
    for (let i = 0; i < RECORDS; i += 3) {
      const [sent] = await producer.send({ topic, acks: -1, messages: messages('idempotent', i, i + 3) })
      expect(String(i), sent.baseOffset, 'base offset')
    }
  })
  await readBack(topic, 'idempotent')
}
async function seekByTime() {
  const admin = kafka.admin()
  await admin.connect()
  try {
    // Past the last timestamp kafkajs itself answers with the end of the partition.
    for (const [wanted, offset] of [[-1, '0'], [7000, '7'], [7001, '8'], [(RECORDS - 1) * 1000 + 1, String(RECORDS)]]) {
      const found = await admin.fetchTopicOffsetsByTimestamp(`${prefix}-none`, FIRST_TIMESTAMP + wanted)
      expect([{ partition: 0, offset }], found, `offset for the first timestamp plus ${wanted}`)
    }
  } finally {
    await admin.disconnect()
  }
}

const TRANSACTIONS = `${prefix}-transactions`
// Those that are left with a transaction open: who disconnects would end it.
const silent = []
async function transactionalProducer(transactionalId, transactionTimeout) {
  const producer = kafka.producer({ transactionalId, transactionTimeout, idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  return producer
}
async function begin(producer, word, from, to) {
  const transaction = await producer.transaction()
  const messages = Array.from({ length: to - from }, (_, n) => ({ partition: 0, value: `${word}-${from + n}` }))
  await transaction.send({ topic: TRANSACTIONS, acks: -1, messages })
  return transaction
}
const offsets = (transaction, offset) => transaction.sendOffsets(
  { consumerGroupId: TRANSACTIONS, topics: [{ topic: TRANSACTIONS, partitions: [{ partition: 0, offset: String(offset) }] }] })
// None of those that are not committed is before them or between them.
async function readCommitted(count) {
  const seen = (await readAll(TRANSACTIONS, count)).map(record => text(record.value))
  expect(Array.from({ length: count }, (_, n) => `committed-${n}`), seen, 'committed values')
}
async function untilPosition(offset) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    let seen
    for (const deadline = Date.now() + 30000; seen !== String(offset); await sleep(20)) {
      if (Date.now() > deadline) throw new Error(`the group is at ${seen}, not at ${offset}`)
      seen = (await admin.fetchOffsets({ groupId: TRANSACTIONS, topics: [TRANSACTIONS] }))[0].partitions[0].offset
    }
  } finally {
    await admin.disconnect()
  }
}
async function commitAndAbort() {
  const producer = await transactionalProducer(TRANSACTIONS, 60000)
  const first = await begin(producer, 'committed', 0, 10)
  await offsets(first, 5)
  await first.commit()
  const second = await begin(producer, 'aborted', 0, 5)
  await offsets(second, 9)
  await second.abort()
  await (await begin(producer, 'committed', 10, 20)).commit()
  await untilPosition(5)
  await readCommitted(20)
  await producer.disconnect()
}
async function fence() {
  const first = await transactionalProducer(TRANSACTIONS, 60000)
  silent.push(first)
  const open = await begin(first, 'open', 0, 3)
  const second = await transactionalProducer(TRANSACTIONS, 60000)
  const taken = await begin(second, 'committed', 20, 25)
  const refused = await open.commit().then(() => null, error => error)
  if (!refused) throw new Error('a zombie commits')
  if (!['PRODUCER_FENCED', 'INVALID_PRODUCER_EPOCH'].includes(refused.type)) throw refused
  await taken.commit()
  await readCommitted(25)
  await second.disconnect()
}
async function fallSilent() {
  const one = await transactionalProducer(`${TRANSACTIONS}-silent`, 2000)
  silent.push(one)
  await begin(one, 'silent', 0, 3)
  const other = await transactionalProducer(TRANSACTIONS, 60000)
  await (await begin(other, 'committed', 25, 30)).commit()
  await readCommitted(30)
  await other.disconnect()
}

// A member of the group: remembers its assignment and what it got, commits what it has.
class Member {
  constructor() {
    this.assigned = []
    this.received = []
    this.consumer = kafka.consumer({ groupId: prefix, sessionTimeout: 10000, heartbeatInterval: 500, maxWaitTimeInMs: 200 })
  }
  async start() {
    this.consumer.on(this.consumer.events.GROUP_JOIN, ({ payload }) => { this.assigned = payload.memberAssignment[`${prefix}-group`] || [] })
    await this.consumer.connect()
    await this.consumer.subscribe({ topic: `${prefix}-group`, fromBeginning: true })
    await this.consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => { this.received.push({ partition, offset: Number(message.offset), value: text(message.value) }) },
    })
  }
  async commit() {
    const ends = {}
    for (const { partition, offset } of this.received) ends[partition] = Math.max(ends[partition] || 0, offset + 1)
    await this.consumer.commitOffsets(Object.entries(ends).map(([partition, offset]) => ({ topic: `${prefix}-group`, partition: Number(partition), offset: String(offset) })))
  }
  stop() {
    return this.consumer.disconnect()
  }
}
const sendToGroup = (from, to) => withProducer({}, producer => producer.send({
  topic: `${prefix}-group`, messages: Array.from({ length: to - from }, (_, n) => ({ partition: (from + n) % 4, value: `group-${from + n}` })),
}))
async function group() {
  const [first, second] = [new Member(), new Member()]
  try {
    await first.start()
    await eventually('the only member has all four partitions', () => first.assigned.length === 4, () => first.assigned)
    await second.start()
    await eventually('both members have two partitions each', () => first.assigned.length === 2 && second.assigned.length === 2, () => [first.assigned, second.assigned])
    await sendToGroup(0, 200)
    await eventually('200 records', () => first.received.length + second.received.length >= 200, () => [first.received.length, second.received.length])
    expect(200, new Set([...first.received, ...second.received].map(r => r.value)).size, 'different records')
    expect([100, 100], [first.received.length, second.received.length], 'records of each member')
    await first.commit()
    await second.commit()
    await second.stop()
    await eventually('the first member has all four partitions again', () => first.assigned.length === 4, () => first.assigned)
  } finally {
    await first.stop().catch(() => {})
    await second.stop().catch(() => {})
  }
  await sendToGroup(200, 240)
}
async function resume() {
  const member = new Member()
  try {
    await member.start()
    await eventually('the 40 records behind the committed offsets', () => member.received.length >= 40, () => member.received.length)
  } finally {
    await member.stop()
  }
  for (let partition = 0; partition < 4; partition++) {
    expect(Array.from({ length: 10 }, (_, i) => [50 + i, `group-${(50 + i) * 4 + partition}`]),
      member.received.filter(r => r.partition === partition).map(r => [r.offset, r.value]), `records of partition ${partition}`)
  }
}

async function main() {
  await zstd.init()
  if (when === 'before') {
    for (const name of Object.keys(CODECS)) await check(`produce and read back, ${name}`, () => codec(name))
    for (const setting of [0, 1, -1]) await check(`acks=${setting}`, () => acks(setting))
    await check('idempotent producer', idempotent)
    await check('seek by time', seekByTime)
    await check('transactions, committed and aborted, with offsets', commitAndAbort)
    await check('a zombie is fenced out of its transaction', fence)
    await check('a transaction that is left open is aborted', fallSilent)
    await check('group of two members, rebalance, commit', group)
  } else {
    for (const name of Object.keys(CODECS)) await check(`read again after the restart, ${name}`, () => readBack(`${prefix}-${name}`, name))
    await check('read committed records again', () => readCommitted(30))
    await check('resume at the committed offsets', resume)
  }
  process.exit(failures ? 1 : 0)
}
main().catch(error => {
  console.log(`FAILED kafkajs: ${error.stack}`)
  process.exit(1)
})
