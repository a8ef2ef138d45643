-- Admit and finish requests of one account, in order, in one atomic step.
--
-- KEYS     every key the operations touch; all carry the account's hash tag, but for the free requests of a model that all accounts share.
-- ARGV[1]  JSON list of operations:
--            admit   {request id, seconds, kind, key, limit, kind, key, limit, ...}
--            finish  {request id, -tokens - 1, kind, key, 0, ...}      (a negative second field says "finish")
--            correct {request id, -day - 1, 4, key, change, ...}       (of what was counted on that day; another day is left alone)
--          kind 1 = requests a minute, 2 = tokens a minute, 3 = concurrency, 4 = free requests a day, 5 = the same, but where one of
--          them is used up the request is admitted as one that pays; key is an index into KEYS.
-- ARGV[2]  unix milliseconds, or "" for the server's own clock.
-- Returns  nine integers per admission: refusing check (0 = admitted), milliseconds to wait,
--          tightest requests check, remaining, milliseconds to reset, the same three for tokens (check 0 = no such limit),
--          and the UTC day whose free requests it was counted in, since 1970 (0 = in none).
--
-- A minute is 60 one-second slots in a hash used as a ring (field = second % 60), with their sum in `total` and the second last
-- written in `last`. A slot leaves the window 60 s after its second began. Concurrency is a sorted set of request ids scored by expiry.

local now
if ARGV[2] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = tonumber(ARGV[2])
end
local second = math.floor(now / 1000)
local DAY = 86400000

-- Windows are read once, changed here, and written back once, however many operations share them.
local windows, sets, days = {}, {}, {}

local function open_window(key)
  if windows[key] then return windows[key] end
  local stored = redis.call('HMGET', key, 'total', 'last')
  local last = tonumber(stored[2]) or 0
  local window = {total = tonumber(stored[1]) or 0, last = last, at = math.max(second, last), added = 0, stale = {}}
  if window.at - last >= 60 then
    window.total = 0
  else
    for passed = last + 1, window.at do table.insert(window.stale, passed % 60) end
    if #window.stale > 0 then
      for _, count in ipairs(redis.call('HMGET', key, unpack(window.stale))) do
        window.total = window.total - (tonumber(count) or 0)
      end
    end
  end
  windows[key] = window
  return window
end

-- Milliseconds until `excess` has left the window: walk from the oldest second.
local function wait_for_room(key, window, excess)
  if not window.history then
    window.history, window.oldest = {}, window.at - 59
    if window.last >= window.oldest then
      local slots = {}
      for past = window.oldest, window.last do table.insert(slots, past % 60) end
      window.history = redis.call('HMGET', key, unpack(slots))
    end
  end
  for index, count in ipairs(window.history) do
    excess = excess - (tonumber(count) or 0)
    if excess <= 0 then return (window.oldest + index + 59) * 1000 - now end
  end
  return (window.at + 60) * 1000 - now
end

local function add(window, count)
  window.total = window.total + count
  window.added = window.added + count
end

local function milliseconds_to_reset(window)
  if window.total == 0 then return 0 end
  return ((window.added > 0 and window.at or window.last) + 60) * 1000 - now
end

local function open_set(key)
  if sets[key] then return sets[key] end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local set = {taken = redis.call('ZCARD', key), longest = 0}
  sets[key] = set
  return set
end

-- A day's count is a hash of the day and how many; a clock that goes back stays on the day that has begun.
local function open_day(key)
  if days[key] then return days[key] end
  local stored = redis.call('HMGET', key, 'day', 'count')
  local last, today = tonumber(stored[1]) or 0, math.floor(now / DAY)
  local day = {at = math.max(today, last), count = 0, changed = false}
  if day.at == last then day.count = tonumber(stored[2]) or 0 end
  days[key] = day
  return day
end

local function milliseconds_to_midnight(day)
  return (day.at + 1) * DAY - now
end

local function admit(operation, answer)
  local refusing, wait, pays, counted = 0, 0, false, 0
  for i = 3, #operation, 3 do
    local kind, key, limit = operation[i], KEYS[operation[i + 1]], operation[i + 2]
    local needed = 0
    if kind == 3 then
      -- Nobody knows when a request ends; a second is a fair time to ask again.
      if open_set(key).taken >= limit then needed = 1000 end
    elseif kind > 3 then
      local day = open_day(key)
      if day.count >= limit then
        if kind == 4 then needed = milliseconds_to_midnight(day) else pays = true end
      end
    else
      local window = open_window(key)
      if window.total >= limit then needed = wait_for_room(key, window, window.total + 1 - limit) end
    end
    if needed > wait then refusing, wait = i / 3, needed end
  end
  local shown = {{0, 0, 0}, {0, 0, 0}}
  for i = 3, #operation, 3 do
    local kind, key, limit = operation[i], KEYS[operation[i + 1]], operation[i + 2]
    if kind == 3 then
      if refusing == 0 then
        local set = sets[key]
        set.taken = set.taken + redis.call('ZADD', key, now + operation[2] * 1000, operation[1])
        set.longest = math.max(set.longest, operation[2] * 1000)
      end
    elseif kind > 3 then
      local day = days[key]
      if refusing == 0 and not pays then
        day.count, day.changed, counted = day.count + 1, true, day.at
      end
      local remaining, tightest = math.max(0, limit - day.count), shown[1]
      if not pays and (tightest[1] == 0 or remaining < tightest[2]) then
        shown[1] = {i / 3, remaining, day.count > 0 and milliseconds_to_midnight(day) or 0}
      end
    else
      local window = windows[key]
      if refusing == 0 and kind == 1 then add(window, 1) end
      local remaining, tightest = math.max(0, limit - window.total), shown[kind]
      if tightest[1] == 0 or remaining < tightest[2] then
        shown[kind] = {i / 3, remaining, milliseconds_to_reset(window)}
      end
    end
  end
  for _, value in ipairs({refusing, wait, unpack(shown[1])}) do table.insert(answer, value) end
  for _, value in ipairs(shown[2]) do table.insert(answer, value) end
  table.insert(answer, counted)
end

local function finish(operation)
  for i = 3, #operation, 3 do
    local kind, key = operation[i], KEYS[operation[i + 1]]
    if kind == 3 then
      local set = open_set(key)
      set.taken = set.taken - redis.call('ZREM', key, operation[1])
    elseif kind > 3 then
      local day = open_day(key)
      if day.at == -operation[2] - 1 then
        day.count, day.changed = math.max(0, day.count + operation[i + 2]), true
      end
    else
      add(open_window(key), -operation[2] - 1)
    end
  end
end

local answer = {}
for _, operation in ipairs(cjson.decode(ARGV[1])) do
  if operation[2] < 0 then finish(operation) else admit(operation, answer) end
end

-- A full server refuses a script's first write or none, and never one that only deletes: so the sum goes first.
for key, window in pairs(windows) do
  if window.added > 0 then
    local outdated = window.at - window.last >= 60
    if outdated and window.last > 0 then redis.call('DEL', key) end
    redis.call('HSET', key, 'total', window.total, 'last', window.at)
    if not outdated and #window.stale > 0 then redis.call('HDEL', key, unpack(window.stale)) end
    redis.call('HINCRBY', key, window.at % 60, window.added)
    if window.at ~= window.last then redis.call('PEXPIRE', key, 61000) end
  end
end
for key, day in pairs(days) do
  if day.changed then
    redis.call('HSET', key, 'day', day.at, 'count', day.count)
    redis.call('PEXPIRE', key, milliseconds_to_midnight(day) + 60000)
  end
end
for key, set in pairs(sets) do
  if set.longest > redis.call('PTTL', key) then redis.call('PEXPIRE', key, set.longest) end
end
return answer
